//! What the public interface does not show: numbers as text, file names. `tests/library/report_snapshots.rs` has the rest.

use super::format;
use super::output_dir::SampleFiles;
use crate::stats::Interval;

#[test]
fn numbers_keep_about_four_digits() {
    assert_eq!(format::perplexity(4.8434), "4.843");
    assert_eq!(format::perplexity(12.345), "12.35");
    assert_eq!(format::perplexity(123.45), "123.5");
    assert_eq!(format::perplexity(20034.6), "20035");
    assert_eq!(format::perplexity(f64::MAX), "1.80e308");
    assert_eq!(format::perplexity_stderr(0.1127, 4.8434), "0.113");
    assert_eq!(format::ratio(1.000_24), "1.0002");
    assert_eq!(format::points(0.720_2), "72.02");
}

#[test]
fn signs_are_shown_except_on_zero() {
    assert_eq!(format::signed_points(0.033), "+3.30");
    assert_eq!(format::signed_points(-0.000_2), "−0.02");
    assert_eq!(format::signed_points(-0.000_000_2), "0.00");
    assert_eq!(format::signed_perplexity(0.000_1), "0.000");
    assert_eq!(format::signed_perplexity(2e7), "+2.00e7");
    assert_eq!(format::points_interval(Interval { lower: -0.001, upper: 0.002 }), "[−0.10, +0.20]");
    assert_eq!(format::perplexity_interval(Interval { lower: -0.5, upper: 1500.2 }), "[0, +1500]");
}

#[test]
fn shares_multiples_and_counts() {
    let shares = [0.0, 1e-6, 0.000_5, 0.014_8, 0.3, 1.5];
    assert_eq!(shares.map(format::percent), ["0 %", "1.0e−4 %", "0.0500 %", "1.48 %", "30.0 %", "150.0 %"]);
    assert_eq!([7, 1234, 20_554_567_680].map(format::grouped), ["7", "1,234", "20,554,567,680"]);
}

#[test]
fn p_values_end_at_a_thousandth() {
    assert_eq!(format::p_value(1.0), "1.00");
    assert_eq!(format::p_value(0.25), "0.25");
    assert_eq!(format::p_value(0.0112), "0.011");
    assert_eq!(format::p_value(1e-9), "< 0.001");
    assert_eq!(format::level(0.95), "95 %");
    assert_eq!(format::level(0.997), "99.7 %");
}

#[test]
fn counts_and_lists_read_as_english() {
    assert_eq!(format::count(1, "rank"), "1 rank");
    assert_eq!(format::count(0, "rank"), "0 ranks");
    assert_eq!(format::list(&["a", "b", "c"]), "a, b and c");
    assert_eq!(format::list(&["a"]), "a");
    assert_eq!(format::bytes(41_109_135_360), "41.1 GB");
    assert_eq!(format::bytes(999), "999 bytes");
}

#[test]
fn sample_files_have_safe_names_of_their_own() {
    let mut files = SampleFiles::default();
    assert_eq!(files.baseline(), "samples/baseline.jsonl");
    assert_eq!(files.variant("merge20b"), "samples/merge20b.jsonl");
    assert_eq!(files.variant("../../etc/passwd"), "samples/etc-passwd.jsonl");
    assert_eq!(files.variant("a b"), "samples/a-b.jsonl");
    assert_eq!(files.variant("a/b"), "samples/a-b-2.jsonl");
    assert_eq!(files.variant("Baseline"), "samples/Baseline-2.jsonl");
    assert_eq!(files.variant("…"), "samples/model.jsonl");
}
