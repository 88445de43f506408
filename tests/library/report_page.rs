//! The page from fixed synthetic samples: its markup pinned, what makes it accessible and self-contained, hostile text, and
//! the same page again from the files of an output directory.

use std::collections::{HashMap, HashSet};

use crate::common::report_input::{input, passages};
use kintsugi::report::{self, Report, ReportError, ReportFiles, Results};

/// The page of the whole synthetic run.
fn page() -> String {
    let (input, passages) = (input(), passages());
    let report = Report::new(&input).unwrap();
    report::render_html(&ReportFiles::new(&report, &input, &passages)).unwrap()
}

/// Every piece between two marks.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    text.split(start).skip(1).map(|rest| rest.split(end).next().unwrap()).collect()
}

#[test]
fn markup() {
    let page = page();
    // The style sheet and the script are files of their own; pictures are pinned by what they say.
    let mut text = page.clone();
    for (start, end) in [("<style>\n", "</style>"), ("<script>\n", "</script>")] {
        let content = text.rfind(start).unwrap() + start.len();
        let length = text[content..].find(end).unwrap();
        text.replace_range(content..content + length, "…\n");
    }
    for svg in between(&page, "<svg ", "</svg>") {
        let told = svg.split_once("</desc>").unwrap();
        text = text.replace(told.1, "…");
    }
    insta::with_settings!({filters => vec![(r"kuva-clip-\d+", "kuva-clip-N")]}, {
        insta::assert_snapshot!(text);
    });
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let page = page();
    let namespace = "http://www.w3.org/2000/svg";
    for place in ["http://", "https://", "src=", "@import", "url("] {
        let found = page.replace(namespace, "").replace("url(#", "").matches(place).count();
        assert_eq!(found, 0, "{place}");
    }
    assert!(page.contains("Content-Security-Policy\" content=\"default-src 'none'"));
}

#[test]
fn tables_have_captions_and_scopes_and_pictures_have_words() {
    let page = page();
    for table in between(&page, "<table", "</table>") {
        assert!(table.contains("<caption"), "{table}");
        assert_eq!(table.matches("<th ").count(), table.matches("scope=").count());
        assert_eq!(table.matches("<th>").count(), 0);
    }
    let pictures = between(&page, "<svg ", "</svg>");
    assert_eq!(pictures.len(), 8, "two forests, divergence, drift, four histograms");
    for picture in pictures {
        assert!(picture.contains("viewBox=") && picture.contains("role=\"img\""));
        let [named] = between(picture.split('>').next().unwrap(), "aria-labelledby=\"", "\"")[..] else { panic!() };
        for id in named.split(' ') {
            assert!(picture.contains(&format!("id=\"{id}\">")), "{id}");
        }
        assert!(!between(picture, "-desc\">", "</desc>")[0].is_empty());
    }
    let ids = between(&page, " id=\"", "\"");
    assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "an id is given twice: {ids:?}");
    for target in between(&page, "href=\"#", "\"") {
        assert!(ids.contains(&target), "{target}");
    }
}

#[test]
fn text_of_passages_and_tokens_is_no_markup() {
    let page = page();
    assert_eq!(page.matches("<script>").count(), 1, "the page's own");
    assert!(page.contains("&#60;script&#62;alert(") && page.contains("<code>&#60;b&#62;</code>"));
    assert!(page.contains("<code>⏎</code>") && page.contains("<code>#50400</code>"));
}

#[test]
fn every_flip_is_listed_once_with_both_answers() {
    let (input, page) = (input(), page());
    let flips = |name: &str| {
        let at = input.models.iter().position(|model| model.name == name).unwrap();
        let pairs = input.samples[0].iter().zip(&input.samples[at]);
        pairs.filter(|(base, other)| base.is_greedy != other.is_greedy).count()
    };
    let rows = between(&page, "<tr data-passage=", "</tr>");
    assert!(flips("zeroth") > 0 && flips("mean") > 0);
    let listed = rows.iter().flat_map(|row| between(row, "data-variants=\"", "\"")).flat_map(|names| names.split('|'));
    let mut counts: HashMap<&str, usize> = HashMap::new();
    listed.for_each(|name| *counts.entry(name).or_default() += 1);
    assert_eq!(counts, HashMap::from([("zeroth", flips("zeroth")), ("mean", flips("mean"))]));
    for row in rows {
        assert_eq!(row.matches("<ol class=\"top\">").count(), 2, "{row}");
        assert!(row.contains("data-direction=\"lost\"") && row.contains("token 1 of 2"), "{row}");
    }
}

#[test]
fn files_give_the_page_back() {
    let folder = tempfile::tempdir().unwrap();
    let output = report::prepare_output(folder.path()).unwrap();
    let input = input();
    let report = Report::new(&input).unwrap();
    report::write_all(&report, &input, &passages(), &output).unwrap();
    // Ids of clipped regions are counted through the process.
    let plain = |page: &str| {
        let parts = page.split("kuva-clip-").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
        parts.collect::<Vec<_>>().join("kuva-clip-")
    };
    let written = std::fs::read_to_string(output.report_html()).unwrap();
    let results = Results::read(folder.path()).unwrap();
    assert!(plain(&report::render_html(&results.files()).unwrap()) == plain(&written));

    for plot in ["accuracy-loss", "perplexity-ratio", "divergence", "drift", "delta-logprob-zeroth"] {
        let svg = std::fs::read_to_string(folder.path().join(format!("plots/{plot}.svg"))).unwrap();
        assert!(svg.starts_with("<svg xmlns") && svg.trim_end().ends_with("</svg>"), "{plot}");
        let png = std::fs::read(folder.path().join(format!("plots/{plot}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{plot}");
    }

    // A report alone still makes a page.
    let alone = folder.path().join("alone/report.json");
    std::fs::create_dir(alone.parent().unwrap()).unwrap();
    std::fs::copy(output.report_json(), &alone).unwrap();
    let page = report::render_html(&Results::read(&alone).unwrap().files()).unwrap();
    assert!(page.contains("id=\"comparison\"") && !page.contains("id=\"flips\""));

    // Samples of another run are refused.
    std::fs::write(folder.path().join("samples/mean.jsonl"), "").unwrap();
    let error = Results::read(folder.path()).unwrap_err();
    assert!(matches!(error, ReportError::PassageCount { ref name, found: 0, .. } if name == "mean"), "{error}");
}

#[test]
fn models_with_long_or_similar_names_have_plots_of_their_own() {
    let mut input = input();
    let long = "x".repeat(300);
    for (variant, name) in input.models[1..].iter_mut().zip(["a b", "a/b", &long]) {
        variant.name = name.to_owned();
    }
    let folder = tempfile::tempdir().unwrap();
    let output = report::prepare_output(folder.path()).unwrap();
    let report = Report::new(&input).unwrap();
    report::write_all(&report, &input, &passages(), &output).unwrap();
    let plots = std::fs::read_dir(folder.path().join("plots")).unwrap();
    let names = plots.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // As SVG and as PNG.
    assert_eq!(names.filter(|name| name.starts_with("delta-logprob")).count(), 2 * report.variants.len());
    let page = std::fs::read_to_string(output.report_html()).unwrap();
    let ids = between(&page, " id=\"", "\"");
    assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "{ids:?}");
    // A plot writes it short, its words in full.
    let short = [&long[..15], "…", &long[..15], "</text>"].concat();
    assert!(page.contains(&short) && page.contains(&format!("{long}: ")), "{page}");
}

#[test]
fn an_empty_folder_is_no_report() {
    let folder = tempfile::tempdir().unwrap();
    let error = Results::read(folder.path()).unwrap_err();
    assert!(matches!(error, ReportError::NoReport { .. }) && error.hint().is_some(), "{error}");
}
