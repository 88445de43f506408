//! Pages of plain text that say everything without colour: headings, paragraphs and tables within a given width.

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};

/// A name may be broken down to this width before the table is.
pub(super) const NAME_WIDTH: usize = 16;
/// Space between columns.
const GAP: u16 = 2;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalStyle {
    /// Width of the terminal in columns.
    pub width: usize,
    /// Whether headings are bold; whoever asks has looked at `NO_COLOR` and at whether this is a terminal.
    pub styled: bool,
}

/// A table without any limit to its width.
pub(super) fn plain_table(header: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─')));
    table.set_content_arrangement(ContentArrangement::Disabled);
    let last = header.len().saturating_sub(1);
    table.set_header(header.into_iter().map(Cell::new));
    for row in rows {
        table.add_row(row.into_iter().map(Cell::new));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { GAP }));
    }
    table
}

/// A table with notes and a closing sentence under it, as text with a final line break.
#[must_use]
pub fn render_table(
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    notes: &[String],
    closing: &str,
    style: TerminalStyle,
) -> String {
    let mut page = Page::new(style);
    page.table(plain_table(header, rows));
    page.blank();
    for note in notes {
        page.paragraph(note, 0);
    }
    page.heading(closing);
    page.into_text()
}

/// Natural width of every column, its gap included.
pub(super) fn column_widths(table: &Table) -> Vec<usize> {
    let contents = table.column_max_content_widths();
    table.column_iter().zip(contents).map(|(column, content)| usize::from(content + column.padding_width())).collect()
}

/// Text as it grows, line by line.
pub(super) struct Page {
    style: TerminalStyle,
    text: String,
}

impl Page {
    pub(super) fn new(style: TerminalStyle) -> Self {
        Self { style, text: String::new() }
    }

    pub(super) fn width(&self) -> usize {
        self.style.width
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn line(&mut self, line: &str, bold: bool) {
        if bold && self.style.styled {
            self.text.push_str("\u{1b}[1m");
            self.text.push_str(line);
            self.text.push_str("\u{1b}[0m");
        } else {
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    pub(super) fn blank(&mut self) {
        self.text.push('\n');
    }

    /// Both ends of one line, or two lines where it is too short.
    pub(super) fn title(&mut self, left: &str, right: &str) {
        let used = left.chars().count() + right.chars().count();
        match self.style.width.checked_sub(used) {
            Some(space) if space >= usize::from(GAP) => self.line(&format!("{left}{}{right}", " ".repeat(space)), true),
            _ => {
                self.heading(left);
                self.heading(right);
            }
        }
    }

    pub(super) fn heading(&mut self, text: &str) {
        for line in wrap(text, self.style.width, 0) {
            self.line(&line, true);
        }
    }

    pub(super) fn paragraph(&mut self, text: &str, indent: usize) {
        for line in wrap(text, self.style.width, indent) {
            self.line(&line, false);
        }
    }

    /// A table in which the names give way first: numbers are not broken while that suffices.
    pub(super) fn table(&mut self, mut table: Table) {
        let widths = column_widths(&table);
        if let Some((name, others)) = widths.split_first()
            && name + others.iter().sum::<usize>() > self.style.width
        {
            let room = self.style.width.saturating_sub(others.iter().sum()).max(NAME_WIDTH.min(*name));
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(u16::try_from(self.style.width).unwrap_or(u16::MAX));
            if let (Some(column), Ok(room)) = (table.column_mut(0), u16::try_from(room)) {
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(room)));
            }
        }
        let text = table.trim_fmt();
        let mut in_header = true;
        for line in text.lines() {
            in_header &= !line.starts_with('─');
            self.line(line, in_header);
        }
    }
}

/// Lines of at most `width` characters, `indent` spaces before each; where they are indented, two more before
/// all but the first. A word that
/// is longer than that stays whole: it may be a path to be copied.
fn wrap(text: &str, width: usize, indent: usize) -> Vec<String> {
    let hanging_indent = if indent == 0 { 0 } else { indent + 2 };
    let mut lines = Vec::new();
    let mut line = " ".repeat(indent);
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(hanging_indent)));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines
}
