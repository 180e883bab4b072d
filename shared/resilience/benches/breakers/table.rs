//! Writes the results into a table, so that nobody types one.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::cases::{self, Case, Who};
use crate::count::{self, Counts};
use crate::make::Made;
use crate::results;

/// The table stands between these lines.
const BEGIN: &str = "<!-- written by `make bench` -->";
const END: &str = "<!-- end of what `make bench` wrote -->";

/// What is known of one case.
struct Cell {
    who: Who,
    nanoseconds: f64,
    instructions: Option<f64>,
}

/// Puts the table between the two lines of `file`.
pub(crate) fn write(file: &Path) -> Made<()> {
    let text = std::fs::read_to_string(file)?;
    let missing = || format!("{} holds no `{BEGIN}` … `{END}`", file.display());
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let table = render()?;
    std::fs::write(file, format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))?;
    Ok(())
}

fn render() -> Made<String> {
    let counts: Counts = serde_json::from_str(&std::fs::read_to_string(count::file()?)?)?;
    let mut table = String::from("| ns a call (instructions) |");
    for who in Who::ALL {
        write!(table, " {} |", who.name())?;
    }
    table.push_str("\n|---|");
    table.push_str(&"--:|".repeat(Who::ALL.len()));
    table.push('\n');
    let cases = cases::all();
    for row in cases.chunk_by(|one, other| one.row == other.row) {
        write!(table, "| {} |", row[0].row)?;
        let cells = row.iter().map(|case| cell(case, &counts)).collect::<Made<Vec<_>>>()?;
        let fastest = cells.iter().map(|cell| cell.nanoseconds).fold(f64::INFINITY, f64::min);
        for who in Who::ALL {
            let Some(cell) = cells.iter().find(|cell| cell.who == who) else {
                table.push_str(" – |");
                continue;
            };
            let mark = if cell.nanoseconds <= fastest { "**" } else { "" };
            write!(table, " {mark}{}{mark}", digits(cell.nanoseconds))?;
            if let Some(instructions) = cell.instructions {
                write!(table, " ({instructions:.0})")?;
            }
            table.push_str(" |");
        }
        table.push('\n');
    }
    write!(table, "\nMeasured on: {}, {} cores.\n", processor(), std::thread::available_parallelism()?)?;
    Ok(table)
}

/// Nanoseconds with a fraction only where that is a tenth of them.
fn digits(nanoseconds: f64) -> String {
    if nanoseconds < 10.0 { format!("{nanoseconds:.1}") } else { format!("{nanoseconds:.0}") }
}

fn cell(case: &Case, counts: &Counts) -> Made<Cell> {
    let name = case.who.name();
    let instructions = counts.get(case.row).and_then(|row| row.get(name)).copied();
    if case.alone && instructions.is_none() {
        return Err(format!("no instructions were counted for {}, {name}", case.row).into());
    }
    Ok(Cell { who: case.who, nanoseconds: median(case.row, name)?, instructions })
}

/// The median of what criterion measured: what else runs on the machine moves the mean.
fn median(row: &str, name: &str) -> Made<f64> {
    let path = results()?.join(row).join(name).join("new/estimates.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let estimates: Value = serde_json::from_str(&text)?;
    estimates["median"]["point_estimate"].as_f64().ok_or_else(|| "criterion names no median".into())
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or("unknown processor", |model| model.trim_start_matches([' ', '\t', ':'])).to_owned()
}
