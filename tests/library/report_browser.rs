//! The page in a real browser: no complaints on its console, sorting and filtering by its own controls. Skipped, with a
//! message, where there is no Chromium (`apt-get install chromium`).

use std::path::Path;
use std::process::Command;

use crate::common::report_input::{input, passages};
use kintsugi::report::{self, Report, ReportFiles};

/// The browser of this machine, if any.
fn chromium() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
}

/// What uses the page as a reader does, and writes what it saw into the page's title.
const VISITOR: &str = r#"<script>
const seen = {};
const table = document.getElementById("flip-table");
const form = document.getElementById("filter");
const shown = () => Array.from(table.tBodies[0].rows).filter((row) => !row.hidden);
const column = (name) => shown().map((row) => Number(row.dataset[name]));
const ascends = (values) => values.every((value, place) => place === 0 || values[place - 1] <= value);
const press = (name) => table.querySelector(`th[data-sort="${name}"] button`).click();
const choose = (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
};
const all = shown().length;
seen.controls = !form.hidden && table.querySelectorAll("th button").length === 5;
const sorted = (name) => table.querySelector(`th[data-sort="${name}"]`).ariaSort;
seen.orderShown = ascends(column("passage")) && sorted("passage") === "ascending";
const widths = () => Array.from(table.tHead.rows[0].cells, (cell) => Math.round(cell.getBoundingClientRect().width));
const before = widths().join();
press("change");
seen.sorted = ascends(column("change")) && table.querySelector('th[data-sort="change"]').ariaSort === "ascending";
press("change");
seen.columnsStay = widths().join() === before;
seen.reversed = ascends(column("change").reverse()) && table.querySelector('th[data-sort="change"]').ariaSort === "descending";
press("passage");
seen.byPassage = ascends(column("passage")) && !table.querySelector('th[data-sort="change"]').ariaSort;
choose("variant", "mean");
seen.variant = shown().length > 0 && shown().length < all && shown().every((row) => row.dataset.variants === "mean");
seen.count = form.querySelector("output").textContent === `${shown().length} of ${all} shown`;
choose("variant", "");
choose("text", "  SHE WROTE <SCRIPT>");
seen.text = shown().length > 0 && shown().every((row) => Number(row.dataset.passage) % 10 === 0);
choose("text", "");
choose("direction", "gained");
seen.direction = shown().length === 0;
choose("direction", "");
seen.restored = shown().length === all;
seen.fits = document.documentElement.scrollWidth <= window.innerWidth;
document.title = JSON.stringify(seen);
</script>"#;

/// The page's title and the browser's console after a visit.
fn visit(browser: &str, page: &Path, window: &str) -> (String, String) {
    let output = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"])
        .arg(format!("--window-size={window}"))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let console: Vec<_> = stderr.lines().filter(|line| line.contains("CONSOLE")).collect();
    (title.unwrap().0.replace("&lt;", "<"), console.join("\n"))
}

#[test]
fn a_reader_can_sort_and_filter_and_the_console_stays_empty() {
    let Some(browser) = chromium() else {
        eprintln!("skipped: there is no Chromium on this machine");
        return;
    };
    let (input, passages) = (input(), passages());
    let report = Report::new(&input).unwrap();
    let page = report::render_html(&ReportFiles::new(&report, &input, &passages)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("visited.html");
    std::fs::write(&file, page.replace("</body>", &format!("{VISITOR}</body>"))).unwrap();
    for window in ["1280,900", "500,900"] {
        let (title, console) = visit(browser, &file, window);
        assert_eq!(console, "", "{window}");
        let seen: serde_json::Value = serde_json::from_str(&title).unwrap_or_else(|error| panic!("{title}: {error}"));
        let seen = seen.as_object().unwrap();
        assert_eq!(seen.len(), 12);
        let failed: Vec<_> = seen.iter().filter(|(_, value)| *value != true).map(|(name, _)| name).collect();
        assert!(failed.is_empty(), "{window}: {failed:?}");
    }
}

/// Follows a link within the page, and tells the page around it whether that led there.
const FRAMED_VISITOR: &str = r##"<script>
document.querySelector('nav a[href="#flips"]').click();
parent.document.title = `scrolled: ${scrollY > 0}`;
</script>"##;

#[test]
fn links_within_the_page_work_where_a_notebook_shows_it() {
    let Some(browser) = chromium() else {
        eprintln!("skipped: there is no Chromium on this machine");
        return;
    };
    let (input, passages) = (input(), passages());
    let report = Report::new(&input).unwrap();
    let page = report::render_html(&ReportFiles::new(&report, &input, &passages)).unwrap();
    let framed =
        page.replace("</body>", &format!("{FRAMED_VISITOR}</body>")).replace('&', "&amp;").replace('"', "&quot;");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notebook.html");
    std::fs::write(&file, format!("<title></title><iframe srcdoc=\"{framed}\" height=800></iframe>")).unwrap();
    let (title, console) = visit(browser, &file, "1280,900");
    assert_eq!((title.as_str(), console.as_str()), ("scrolled: true", ""));
}
