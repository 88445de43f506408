//! Names and numbers as sentences have them, for every module that tells something.

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list<T: AsRef<str>>(words: &[T]) -> String {
    match words {
        [] => String::new(),
        [word] => word.as_ref().to_owned(),
        [words @ .., last] => {
            let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", words.join(", "), last.as_ref())
        }
    }
}

/// A large count, its digits in groups of three.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number as a power of ten, with so many decimals: `2.7e−5`.
pub(crate) fn scientific(value: f64, decimals: usize) -> String {
    minus(&format!("{value:.decimals$e}"))
}

/// A number with the minus sign, which is as wide as the plus, in place of hyphens.
pub(crate) fn minus(number: &str) -> String {
    number.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_read_as_english() {
        assert_eq!(list::<&str>(&[]), "");
        assert_eq!(list(&["a"]), "a");
        assert_eq!(list(&["a", "b"]), "a and b");
        assert_eq!(list(&["a", "b", "c"].map(str::to_owned)), "a, b and c");
        assert_eq!([7, 1234, 20_554_567_680].map(grouped), ["7", "1,234", "20,554,567,680"]);
        assert_eq!(scientific(-0.000_027_2, 1), "−2.7e−5");
        assert_eq!(minus("-2.46"), "−2.46");
    }
}
