//! Amounts with their units, as limits are written.

use std::str::FromStr;

use serde::Deserialize;

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident, units $units:expr, shown as $shown:literal, example $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(f64);

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                amount(text, &$units, $example).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(formatter, "{} {}", self.0, $shown)
            }
        }
    };
}

amount!(
    /// Percentage points, written `0.5pp`.
    Points, units ["pp"], shown as "points", example "0.5pp (percentage points)"
);
amount!(
    /// Per cent, written `1%`.
    Percent, units ["%"], shown as "%", example "1%"
);
amount!(
    /// Nats, written `0.001nats` or without the unit: a divergence has no other.
    Nats, units ["nats", "nat", ""], shown as "nats", example "0.001nats"
);

impl Points {
    pub(crate) fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl Percent {
    pub(crate) fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl Nats {
    pub(crate) fn nats(self) -> f64 {
        self.0
    }
}

/// A number that is at least 0 before one of these units.
fn amount(text: &str, units: &[&str], example: &str) -> Result<f64, String> {
    let number = units.iter().find_map(|unit| text.trim().strip_suffix(unit)?.trim_end().parse::<f64>().ok());
    number
        .filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| format!("`{text}`: expected a number of at least 0 and its unit, such as {example}"))
}
