use proptest::prelude::*;

use super::*;
use crate::run::key::RunKey;

fn written(records: &[String]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    let (mut journal, before) = Journal::open::<String>(&path).unwrap();
    assert!(before.records.is_empty() && !before.torn);
    for record in records {
        journal.append(record).unwrap();
    }
    (folder, path)
}

fn some_records() -> Vec<String> {
    ["one", "line\nbreaks \u{1f517}", "", "four"].map(str::to_owned).into()
}

#[test]
fn what_was_written_is_read_and_gone_on_with() {
    let (_folder, path) = written(&some_records());
    let (mut journal, contents) = Journal::open::<String>(&path).unwrap();
    assert_eq!((contents.records, contents.torn), (some_records(), false));
    journal.append(&"five").unwrap();
    let all = read_journal::<String>(&path).unwrap().records;
    assert_eq!((all.len(), all[4].as_str()), (5, "five"));
    for line in fs_err::read_to_string(&path).unwrap().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["record"].is_string() && value["blake3"].as_str().unwrap().len() == 16, "{line}");
    }
}

#[test]
fn a_journal_cut_anywhere_loses_the_cut_record_only() {
    let (_folder, path) = written(&some_records());
    let whole = fs_err::read(&path).unwrap();
    for length in 0..=whole.len() {
        fs_err::write(&path, &whole[..length]).unwrap();
        let complete =
            whole[..length].split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n")).count();
        let (mut journal, contents) = Journal::open::<String>(&path).unwrap();
        assert_eq!(contents.records, some_records()[..complete], "cut after {length} bytes");
        assert_eq!(contents.torn, length > 0 && whole[length - 1] != b'\n');
        // And goes on as if nothing had been.
        for record in &some_records()[complete..] {
            journal.append(record).unwrap();
        }
        assert_eq!(fs_err::read(&path).unwrap(), whole);
    }
}

#[test]
fn only_one_at_a_time_writes() {
    let (_folder, path) = written(&[]);
    let (journal, _) = Journal::open::<String>(&path).unwrap();
    assert!(matches!(Journal::open::<String>(&path), Err(RunError::JournalInUse { .. })));
    assert!(matches!(Journal::restart(&path), Err(RunError::JournalInUse { .. })));
    drop(journal);
    let mut journal = Journal::restart(&path).unwrap();
    journal.append(&"anew").unwrap();
    assert_eq!(read_journal::<String>(&path).unwrap().records, ["anew"]);
}

#[test]
fn records_that_are_missing_doubled_or_out_of_place_are_noticed() {
    let (_folder, path) = written(&some_records());
    let text = fs_err::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    for (order, record) in [(&[0, 2, 3][..], 2), (&[0, 1, 1, 2, 3], 3), (&[1, 0, 2, 3], 1), (&[0, 2, 1, 3], 2)] {
        fs_err::write(&path, order.iter().map(|&at| lines[at]).collect::<String>()).unwrap();
        let error = read_journal::<String>(&path).unwrap_err();
        assert!(matches!(&error, RunError::JournalDamaged { record: found, .. } if *found == record), "{error}");
        assert!(error.hint().unwrap().contains("--restart"));
    }
}

#[test]
fn what_differs_is_named() {
    let run = RunKey::default().with("data", "aaa").with("dtype", "f32");
    assert_eq!(RunKey::differences(&run, &run.clone()), None);
    let other = RunKey::default().with("data", "bbb").with("dtype", "f32").with("limit", "5");
    let differences = RunKey::differences(&other, &run).unwrap();
    assert_eq!(differences.to_string(), "data is bbb, now aaa; limit is 5, now absent");
}

proptest! {
    #[test]
    fn a_changed_byte_never_passes(at in 0_usize..1000, with in any::<u8>()) {
        let (_folder, path) = written(&some_records());
        let mut bytes = fs_err::read(&path).unwrap();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != with);
        bytes[at] = with;
        fs_err::write(&path, &bytes).unwrap();
        match read_journal::<String>(&path) {
            Err(RunError::JournalDamaged { .. }) => {}
            // At the end it passes for a record that was not finished, which is computed again.
            Ok(contents) => {
                prop_assert!(contents.torn && contents.records.len() >= 2);
                prop_assert!(some_records().starts_with(&contents.records));
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
