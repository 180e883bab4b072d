//! The report as Markdown.

use std::fmt::{self, Write as _};

use crate::report::{Cpu, Report, UnaryRow};

/// The tables of a report.
pub(crate) fn markdown(report: &Report) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let machine = &report.machine;
    writeln!(
        text,
        "{} cores ({}), {} MiB, Linux {}; suite {}; {}; {}; load average {} before.\n",
        machine.cores,
        machine.processor,
        machine.memory_mib,
        machine.kernel,
        machine.suite,
        or_none(&machine.nginx, "nginx"),
        or_none(&machine.redis, "Redis"),
        machine.load_average,
    )?;
    unary(&mut text, &report.unary)?;
    streams(&mut text, report)?;
    memory(&mut text, report)?;
    rest(&mut text, report)?;
    Ok(text)
}

fn or_none(version: &str, name: &str) -> String {
    if version.is_empty() { format!("no {name}") } else { version.to_owned() }
}

fn unary(text: &mut String, rows: &[UnaryRow]) -> fmt::Result {
    writeln!(
        text,
        "| whole answers by | load | requests/s | p50 µs | p99 µs | added p50 | added p99 | CPU µs/request: way + upstream + client | failed | others' CPU |"
    )?;
    writeln!(text, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in rows {
        writeln!(
            text,
            "| {} ({}) | {} | {:.0} | {:.0} | {:.0} | {} | {} | {} | {} | {:.0} % |",
            row.way,
            row.protocol,
            load(row),
            row.per_second,
            row.p50_us,
            row.p99_us,
            added(row.added_p50_us),
            added(row.added_p99_us),
            cpu(row.cpu_us),
            row.failed,
            row.others_share * 100.0,
        )?;
    }
    writeln!(text)
}

fn streams(text: &mut String, report: &Report) -> fmt::Result {
    writeln!(
        text,
        "| streams by | lanes | streams/s | chunks/s | CPU µs/chunk: way + upstream + client | failed | others' CPU |"
    )?;
    writeln!(text, "|---|--:|--:|--:|--:|--:|--:|")?;
    for row in &report.streams {
        writeln!(
            text,
            "| {} ({}) | {} | {:.0} | {:.0} | {} | {} | {:.0} % |",
            row.way,
            row.protocol,
            row.lanes,
            row.streams_per_second,
            row.chunks_per_second,
            cpu(row.cpu_us),
            row.failed,
            row.others_share * 100.0,
        )?;
    }
    writeln!(text)
}

fn memory(text: &mut String, report: &Report) -> fmt::Result {
    writeln!(text, "| open streams by | streams | memory before | with them | MiB per 1,000 | failed |")?;
    writeln!(text, "|---|--:|--:|--:|--:|--:|")?;
    for row in &report.memory {
        writeln!(
            text,
            "| {} ({}) | {} | {} KiB | {} KiB | {:.1} | {} |",
            row.way,
            row.protocol,
            row.streams,
            row.before_kib,
            row.open_kib,
            row.mib_per_1000_streams,
            row.failed,
        )?;
    }
    writeln!(text)
}

fn rest(text: &mut String, report: &Report) -> fmt::Result {
    writeln!(
        text,
        "| Redis answers from the router | requests/s | router p50 µs | router p99 µs | client p50 µs | client p99 µs | failed |"
    )?;
    writeln!(text, "|---|--:|--:|--:|--:|--:|--:|")?;
    for row in &report.cache {
        writeln!(
            text,
            "| {} lanes | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} |",
            row.lanes,
            row.per_second,
            row.router_p50_us,
            row.router_p99_us,
            row.client_p50_us,
            row.client_p99_us,
            row.failed,
        )?;
    }
    writeln!(text, "\n| breaker and chain, no network | calls | p50 µs | p99 µs | p99.9 µs |")?;
    writeln!(text, "|---|--:|--:|--:|--:|")?;
    for row in &report.chain {
        writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {:.2} |",
            row.case, row.calls, row.p50_us, row.p99_us, row.p999_us
        )?;
    }
    writeln!(text, "\n| aim | wanted | measured | met |")?;
    writeln!(text, "|---|--:|--:|---|")?;
    for aim in &report.aims {
        let met = if aim.met { "yes" } else { "no" };
        writeln!(text, "| {} | {} | {} | {met} |", aim.what, aim.aim, aim.measured)?;
    }
    Ok(())
}

fn load(row: &UnaryRow) -> String {
    match row.rate {
        Some(rate) => format!("{rate}/s"),
        None => format!("saturated × {}", row.lanes),
    }
}

fn added(micros: Option<f64>) -> String {
    micros.map_or_else(|| "–".to_owned(), |micros| format!("{micros:+.0}"))
}

fn cpu(cpu: Cpu) -> String {
    format!("{:.1} + {:.1} + {:.1}", cpu.way, cpu.upstream, cpu.client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_have_their_sign_and_missing_ones_a_dash() {
        assert_eq!(added(Some(42.4)), "+42");
        assert_eq!(added(Some(-3.0)), "-3");
        assert_eq!(added(None), "–");
        assert_eq!(cpu(Cpu { way: 1.0, upstream: 2.0, client: 3.0 }), "1.0 + 2.0 + 3.0");
    }
}
