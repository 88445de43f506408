//! When gpt-neox wrote a checkpoint, as far as the forward pass depends on it: a date, or the name of an era.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    pub(super) const fn new(year: u16, month: u8, day: u8) -> Self {
        Self { year, month, day }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('-').map(str::parse::<u16>);
        let date = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(year)), Some(Ok(month @ 1..=12)), Some(Ok(day @ 1..=31)), None) if year >= 2020 => {
                u8::try_from(month).ok().zip(u8::try_from(day).ok()).map(|(month, day)| Self::new(year, month, day))
            }
            _ => None,
        };
        date.ok_or_else(|| format!("`{text}`: expected a date such as 2022-12-10"))
    }
}

/// The days on which gpt-neox changed what the same files mean; from that day on the new meaning holds.
pub(super) mod change {
    use super::Date;

    /// eb02115b: the parallel residual shares one all-reduce and adds row-parallel biases before it.
    pub(in crate::config) const SHARED_REDUCTION: Date = Date::new(2021, 9, 29);
    /// 4d5e7de6: the MLP's norm reads the residual stream, not the attention's norm.
    pub(in crate::config) const NORMS_SIDE_BY_SIDE: Date = Date::new(2021, 10, 20);
    /// 0accac61 (#481): `gpt_j_tied` means its opposite.
    pub(in crate::config) const TYING_INVERTED: Date = Date::new(2022, 12, 6);
    /// f607953d (#761): `gpt_j_tied` has its meaning of before again.
    pub(in crate::config) const TYING_RESTORED: Date = Date::new(2022, 12, 27);
    /// a6065b44 (#966): masked scores become the smallest number instead of −10000.
    pub(in crate::config) const SMALLEST_MASK: Date = Date::new(2023, 6, 5);
    /// 3bfedf47 (#1041): rotary tables are made in float32.
    pub(in crate::config) const FLOAT32_ROTARY: Date = Date::new(2023, 9, 25);
    /// e37ad2f0 (#1278): a parallel residual without MLP biases loses its attention branch.
    pub(in crate::config) const ATTENTION_DROPPED: Date = Date::new(2024, 9, 10);
    /// 96c242eb (#1315): a rank's Q, K and V lie in blocks where keys and values have fewer heads.
    pub(in crate::config) const GQA_BLOCKS: Date = Date::new(2024, 11, 14);
    /// 4c9f1081 (#1345): rmsnorm adds its epsilon under the root.
    pub(in crate::config) const RMS_EPSILON_INSIDE: Date = Date::new(2025, 5, 9);
}

/// Names for stretches between changes: name, a day in it, what marks it.
pub(super) const NAMED: [(&str, Date, &str); 7] = [
    ("branch-2021", Date::new(2021, 7, 1), "gpt_j_residual on its branch: two all-reduces, biases after them"),
    ("norm-of-norm", Date::new(2021, 10, 1), "the MLP is fed norm 2 of norm 1"),
    ("20b", Date::new(2022, 1, 1), "GPT-NeoX-20B and v1.0: today's residual, rotary tables in the files' type"),
    ("tied-inverted", Date::new(2022, 12, 10), "gpt_j_tied means its opposite"),
    ("pythia", Date::new(2023, 1, 15), "Pythia and v2.0"),
    ("gqa-interleaved", Date::new(2024, 3, 1), "grouped queries interleaved head by head"),
    ("head", Date::new(2026, 5, 20), "ea7aefd8"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Era {
    pub name: String,
    pub date: Date,
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Era {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, date, _)) = NAMED.iter().find(|(name, ..)| *name == text) {
            return Ok(Self { name: (*name).to_owned(), date: *date });
        }
        let date = text.parse().map_err(|problem: String| {
            let names: Vec<_> = NAMED.iter().map(|(name, ..)| *name).collect();
            format!("{problem} or one of {}", names.join(", "))
        })?;
        Ok(Self { name: text.to_owned(), date })
    }
}
