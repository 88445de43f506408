//! Arrays of NumPy's `.npz` files: float32 and int64 in C order, as the reference numbers are kept.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use fs_err as fs;

/// An array, its elements in float64 (exact for float32; token ids are far below 2^53).
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// Every array of a file by name, without `.npy`.
pub fn read_npz(path: &Path) -> BTreeMap<String, Array> {
    let mut archive = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    (0..archive.len())
        .map(|index| {
            let mut entry = archive.by_index(index).unwrap();
            let name = entry.name().unwrap().strip_suffix(".npy").unwrap().to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let array = parse_npy(&bytes).unwrap_or_else(|problem| panic!("{name}: {problem}"));
            (name, array)
        })
        .collect()
}

/// Format 1.0 of `numpy.lib.format`.
pub fn parse_npy(bytes: &[u8]) -> Result<Array, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY\x01\x00").ok_or("not version 1.0 of the .npy format")?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or("no header")?;
    let (header, data) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or("a short header")?;
    let header = String::from_utf8_lossy(header);
    if !header.contains("'fortran_order': False") {
        return Err(format!("not in C order: {header}"));
    }
    let (_, shape) = header.split_once("'shape': (").ok_or("no shape")?;
    let (shape, _) = shape.split_once(')').ok_or("an unfinished shape")?;
    let extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let shape = extents.map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|error| error.to_string())?;
    let values: Vec<f64> = if header.contains("'<f4'") {
        data.as_chunks().0.iter().map(|&element| f64::from(f32::from_le_bytes(element))).collect()
    } else if header.contains("'<i8'") {
        #[expect(clippy::cast_precision_loss, reason = "token ids")]
        data.as_chunks().0.iter().map(|&element| i64::from_le_bytes(element) as f64).collect()
    } else {
        return Err(format!("neither float32 nor int64: {header}"));
    };
    if values.len() != shape.iter().product::<usize>() {
        return Err(format!("{} elements for shape {shape:?}", values.len()));
    }
    Ok(Array { shape, values })
}
