//! transformers' settings of rotary embedding: base, share of a head, scaled frequencies (`modeling_rope_utils.py`).

use super::error::refuse;
use super::raw::{Raw, RotaryKeys};
use crate::config::{RotaryScaling, Unsupported};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rotary {
    pub base: f64,
    /// The part of a head that is turned, where it is stated.
    pub share: Option<f64>,
    pub scaling: Option<RotaryScaling>,
}

impl Rotary {
    /// Of the class's defaults where nothing is stated. `rope_scaling`, the older key, wins over `rope_parameters`, as in
    /// transformers 5.
    pub(super) fn of(raw: &Raw) -> Result<Self, Unsupported> {
        let named = [("rope_scaling", &raw.rope_scaling), ("rope_parameters", &raw.rope_parameters)];
        let stated = named.into_iter().find_map(|(key, keys)| Some((key, keys.as_ref()?)));
        let keys = stated.map(|(_, keys)| keys);
        let theta = keys.and_then(|keys| keys.rope_theta);
        let share = keys.and_then(|keys| keys.partial_rotary_factor);
        Ok(Self {
            base: theta.or(raw.rope_theta).or(raw.rotary_emb_base).unwrap_or(10_000.0),
            share: share.or(raw.rotary_pct).or(raw.partial_rotary_factor),
            scaling: stated.map_or(Ok(None), |(key, keys)| scaling(raw, key, keys))?,
        })
    }
}

fn scaling(raw: &Raw, key: &str, keys: &RotaryKeys) -> Result<Option<RotaryScaling>, Unsupported> {
    if keys.full_attention.is_some() || keys.sliding_attention.is_some() {
        return Err(refuse(key, "layers with rotary embeddings of their own are not evaluated"));
    }
    let number = |name: &str, value: Option<f64>| match value {
        Some(number) if number.is_finite() && number > 0.0 => Ok(number),
        Some(number) => Err(refuse(format!("{key}.{name}: {number}"), "it is to be a number above 0")),
        None => Err(refuse(format!("{key}.{name}"), "it is missing, and the scaled frequencies depend on it")),
    };
    match keys.rope_type.as_deref().or(keys.kind.as_deref()) {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RotaryScaling::Linear { factor: number("factor", keys.factor)? })),
        Some("llama3") => {
            let (low, high) =
                (number("low_freq_factor", keys.low_freq_factor)?, number("high_freq_factor", keys.high_freq_factor)?);
            if high <= low {
                let setting = format!("{key}.high_freq_factor: {high}");
                return Err(refuse(setting, &format!("it is to be above low_freq_factor ({low})")));
            }
            // transformers reads the key outside first, and takes the longest input where there is none.
            let positions = raw
                .original_max_position_embeddings
                .or(keys.original_max_position_embeddings)
                .or(raw.max_position_embeddings)
                .filter(|&positions| positions > 0)
                .ok_or_else(|| refuse(format!("{key}.original_max_position_embeddings"), "it is to be above 0"))?;
            Ok(Some(RotaryScaling::Llama3 {
                factor: number("factor", keys.factor)?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_positions: positions,
            }))
        }
        Some(other) => Err(refuse(
            format!("rope_type: {other}"),
            "of scaled rotary frequencies only linear and llama3 are evaluated",
        )),
    }
}
