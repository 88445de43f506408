use super::{Gates, Limits, Percent, Points};

#[test]
fn amounts_have_units() {
    let points = |text: &str| text.parse::<Points>().map(Points::fraction);
    assert_eq!(points("0.5pp"), Ok(0.005));
    assert_eq!(points(" 2 pp"), Ok(0.02));
    assert_eq!("1%".parse::<Percent>().map(Percent::fraction), Ok(0.01));
    for wrong in ["0.5", "0.5%", "-1pp", "NaNpp", "infpp", "pp", ""] {
        assert!(points(wrong).unwrap_err().contains("such as 0.5pp"), "{wrong}");
    }
}

#[test]
fn the_built_in_limits_are_read() {
    let gates = Gates::built_in().unwrap();
    assert!(gates.of("zeroth").skip && !gates.of("fold").skip);
    assert!(gates.of("fold").max_acc_loss < gates.of("reduce-aware").max_acc_loss);
}

#[test]
fn flags_win_over_a_file_and_names_over_the_default() {
    let mut gates = Gates::built_in().unwrap();
    let strict: Points = "0pp".parse().unwrap();
    gates.override_with(Limits { max_acc_loss: Some(strict), ..Limits::default() });
    assert_eq!(gates.of("fold").max_acc_loss, Some(strict));
    assert_eq!(gates.of("never seen").max_acc_loss, Some(strict));
    assert_eq!(gates.of("fold").max_ppl_increase.map(Percent::fraction), Some(0.001));
}

#[test]
fn files_that_say_something_else_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gates.yml");
    for (text, words) in [
        ("default: {max-acc-los: 1pp}", "max-acc-los"),
        ("default: {max-acc-loss: 1}", "such as 0.5pp"),
        ("significance: 2", "between 0 and 1, found 2"),
        ("- 1", "gates.yml"),
    ] {
        fs_err::write(&path, text).unwrap();
        let error = Gates::read(&path).unwrap_err();
        assert!(error.to_string().contains(words), "{text}: {error}");
        assert!(error.hint().is_some());
    }
}
