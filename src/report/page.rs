//! Pages of plain text, complete without colour: headings, paragraphs and tables within a given width.

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, LineStyle, Row, Table, TableStyle, Width};

/// The column of names gets no narrower than this, its gap included: the longest built-in strategy.
const NAME_WIDTH: usize = 17;
const GAP: u16 = 2;
/// Where a long name was: a space that is not trimmed.
const STAND_IN: char = '\u{a0}';

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalStyle {
    /// Width of the terminal in columns.
    pub width: usize,
    /// Whether headings are bold; the caller has checked `NO_COLOR` and whether this is a terminal.
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

/// Sentences under a name, shown in place of a table that is too wide.
pub(crate) struct Entry {
    pub name: String,
    pub sentences: Vec<String>,
}

/// A table, or `entries` where it does not fit, with notes and a closing sentence under it, as text with a final line
/// break.
pub(crate) fn render_table(
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    entries: &[Entry],
    notes: &[String],
    closing: &str,
    style: TerminalStyle,
) -> String {
    let mut page = Page::new(style);
    let table = plain_table(header, rows);
    if fits(&table, style.width) {
        page.table(table);
    } else {
        for entry in entries {
            page.paragraph(&entry.name, 0);
            for sentence in &entry.sentences {
                page.paragraph(sentence, 2);
            }
        }
    }
    page.blank();
    for note in notes {
        page.paragraph(note, 0);
    }
    page.heading(closing);
    page.text
}

/// Natural widths, gaps included: of the names, and of all other columns together.
fn widths(table: &Table) -> (usize, usize) {
    let contents = table.column_max_content_widths();
    let mut columns =
        table.column_iter().zip(contents).map(|(column, content)| usize::from(content + column.padding_width()));
    (columns.next().unwrap_or(0), columns.sum())
}

pub(super) fn natural_width(table: &Table) -> usize {
    let (name, others) = widths(table);
    name + others
}

/// Whether [`Page::table`] draws it in lines of `width` without breaking anything.
pub(super) fn fits(table: &Table, width: usize) -> bool {
    let (name, others) = widths(table);
    name.min(NAME_WIDTH) + others <= width
}

/// Takes names out of the column of names that are wider than it, in order, and leaves a [`STAND_IN`] for each.
fn take_long_names(table: &mut Table, room: usize) -> Vec<String> {
    let mut names = Vec::new();
    for row in table.row_iter_mut() {
        let mut cells: Vec<Cell> = row.cell_iter().cloned().collect();
        if let Some(cell) = cells.first_mut()
            && cell.content().chars().count() + usize::from(GAP) > room
        {
            names.push(std::mem::replace(cell, Cell::new(STAND_IN)).content());
            *row = Row::from(cells);
        }
    }
    names
}

/// Text as it grows, line by line.
pub(super) struct Page {
    pub style: TerminalStyle,
    pub text: String,
}

impl Page {
    pub(super) fn new(style: TerminalStyle) -> Self {
        Self { style, text: String::new() }
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

    /// A blank line, a heading and a paragraph for each line; nothing where there is no line.
    pub(super) fn section(&mut self, title: &str, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        self.groups(title, lines.into_iter().map(|line| (line, [])));
    }

    /// A section of paragraphs with further ones under each.
    pub(super) fn groups<'a, Under: IntoIterator<Item = &'a str>>(
        &mut self,
        title: &str,
        groups: impl IntoIterator<Item = (impl AsRef<str>, Under)>,
    ) {
        for (index, (line, under)) in groups.into_iter().enumerate() {
            if index == 0 {
                self.blank();
                self.heading(title);
            }
            self.paragraph(line.as_ref(), 2);
            under.into_iter().for_each(|line| self.paragraph(line, 4));
        }
    }

    pub(super) fn paragraph(&mut self, text: &str, indent: usize) {
        for line in wrap(text, self.style.width, indent) {
            self.line(&line, false);
        }
    }

    /// A paragraph that begins on the line of `key` and goes on beside it.
    pub(super) fn entry(&mut self, key: &str, text: &str) {
        let used = key.chars().count();
        let mut key = key.to_owned();
        for line in wrap(text, self.style.width.saturating_sub(used), 0) {
            self.line(&format!("{key}{line}"), false);
            key = " ".repeat(used);
        }
    }

    /// A table. Where it is too wide, names that are long get lines of their own, the rest of their rows below: neither
    /// they nor numbers are broken while that suffices.
    pub(super) fn table(&mut self, mut table: Table) {
        let (name, others) = widths(&table);
        let mut long_names = Vec::new().into_iter();
        if name + others > self.style.width {
            let room = self.style.width.saturating_sub(others).max(NAME_WIDTH.min(name));
            long_names = take_long_names(&mut table, room).into_iter();
            let room = widths(&table).0.min(room);
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
            match line.strip_prefix(STAND_IN).and_then(|rest| Some((long_names.next()?, rest))) {
                Some((name, rest)) => {
                    self.line(&name, false);
                    self.line(&format!(" {rest}"), false);
                }
                None => self.line(line, in_header),
            }
        }
    }
}

/// Lines of at most `width` characters, `indent` spaces before each; where they are indented, two more before
/// all but the first. A word that is longer than that stays whole: it may be a path to be copied.
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
