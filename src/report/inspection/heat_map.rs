//! Drift as a grid: a row for each replicated parameter, a column for each stage, a shade for each cell.

use crate::merge::ParamDrift;
use crate::partition::StageId;

/// How strong a cell is drawn, by relative drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shade(usize);

impl Shade {
    /// All of them, from none to strongest.
    pub(super) const ALL: [Self; 5] = [Self(0), Self(1), Self(2), Self(3), Self(4)];

    pub(super) fn of(entry: &ParamDrift) -> Self {
        Self(match entry.drift.relative {
            _ if entry.drift.bit_identical => 0,
            relative if relative < 0.001 => 1,
            relative if relative < 0.01 => 2,
            relative if relative < 0.1 => 3,
            _ => 4,
        })
    }

    pub(super) fn block(self) -> char {
        ['·', '░', '▒', '▓', '█'][self.0]
    }

    /// Gold, as seams have.
    pub(super) fn colour(self) -> &'static str {
        ["#eeeeee", "#fbe7a8", "#f0bf3c", "#bf7a0e", "#6b3a05"][self.0]
    }

    pub(super) fn meaning(self) -> &'static str {
        ["identical", "below 0.1 %", "below 1 %", "below 10 %", "10 % or more"][self.0]
    }
}

pub(super) struct HeatMap<'a> {
    pub stages: Vec<StageId>,
    pub rows: Vec<Row<'a>>,
}

/// One parameter through the stages.
pub(super) struct Row<'a> {
    pub name: &'a str,
    pub used: bool,
    /// By stage; `None` where a stage has no such parameter.
    pub cells: Vec<Option<&'a ParamDrift>>,
}

impl<'a> HeatMap<'a> {
    pub(super) fn new(drift: &'a [ParamDrift]) -> Self {
        let mut stages: Vec<StageId> = drift.iter().map(|entry| entry.stage).collect();
        stages.sort_unstable();
        stages.dedup();
        let mut rows: Vec<Row<'_>> = Vec::new();
        for entry in drift {
            let at = rows.iter().position(|row| row.name == entry.name && row.used == entry.used);
            let at = at.unwrap_or_else(|| {
                rows.push(Row { name: &entry.name, used: entry.used, cells: vec![None; stages.len()] });
                rows.len() - 1
            });
            if let Ok(column) = stages.binary_search(&entry.stage) {
                rows[at].cells[column] = Some(entry);
            }
        }
        Self { stages, rows }
    }

    pub(super) fn has_drift(&self) -> bool {
        self.rows.iter().flat_map(|row| row.cells.iter().flatten()).any(|entry| !entry.drift.bit_identical)
    }

    /// The grid in lines of at most `width` characters: bands of columns one below the other where one is too narrow.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let name_width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let room = width.saturating_sub(name_width + 2).max(20);
        let cell_width = if 2 * self.stages.len() <= room { 2 } else { 1 };
        let mut lines = Vec::new();
        for (band, stages) in self.stages.chunks(room / cell_width).enumerate() {
            if band > 0 {
                lines.push(String::new());
            }
            let first = band * (room / cell_width);
            lines.push(format!("{:name_width$}  {}", "", ticks(stages, cell_width)));
            for row in &self.rows {
                let cells = &row.cells[first..first + stages.len()];
                if cells.iter().any(Option::is_some) {
                    let blocks = cells.iter().map(|cell| cell.map_or(' ', |entry| Shade::of(entry).block()));
                    let blocks: String = blocks.flat_map(|block| std::iter::repeat_n(block, cell_width)).collect();
                    lines.push(format!("{:name_width$}  {}", row.name, blocks.trim_end()));
                }
            }
        }
        lines
    }
}

/// Numbers above the first of every few columns.
fn ticks(stages: &[StageId], cell_width: usize) -> String {
    let last = stages.iter().filter_map(|stage| if let StageId::Layer(number) = stage { Some(*number) } else { None });
    let needed = last.max().unwrap_or(0).to_string().len() + 1;
    let every = [1, 2, 5, 10, 20, 50, 100].into_iter().find(|every| every * cell_width >= needed).unwrap_or(1000);
    let mut line = String::new();
    for (column, stage) in stages.iter().enumerate() {
        let label = match stage {
            StageId::Layer(number) if number % every == 0 => number.to_string(),
            StageId::Layer(_) => continue,
            StageId::Embedding => "E".to_owned(),
            StageId::Output => "O".to_owned(),
        };
        let start = column * cell_width;
        let used = line.chars().count();
        // A label that the one before it would touch is left out.
        if used == 0 || start > used || (start == used && cell_width > 1) {
            line.push_str(&" ".repeat(start - used));
            line.push_str(&label);
        }
    }
    line
}
