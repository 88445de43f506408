//! Options that serialize as text: what `Display` writes and `FromStr` reads.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error as DeError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(super) mod as_text {
    use super::{DeError as _, Deserialize, Deserializer, Display, FromStr, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A value that may be absent.
pub(super) mod as_option {
    use super::{DeError as _, Deserialize, Deserializer, Display, FromStr, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes it so")]
    pub(crate) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// Several values.
pub(super) mod as_list {
    use super::{DeError as _, Deserialize, Deserializer, Display, FromStr, Serialize, Serializer};

    pub(crate) fn serialize<'a, C, T, S>(values: &'a C, serializer: S) -> Result<S::Ok, S::Error>
    where
        &'a C: IntoIterator<Item = &'a T>,
        T: Display + 'a,
        S: Serializer,
    {
        let texts: Vec<_> = values.into_iter().map(ToString::to_string).collect();
        texts.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, C, T, D>(deserializer: D) -> Result<C, D::Error>
    where
        C: IntoIterator<Item = T> + FromIterator<T>,
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}
