//! `mcpfs ls`: what can be started, and with `--all` what cannot and why.

use mcpfs_trust::error::bounded;

use super::{CommandError, Door};
use crate::control::facts::{Page, Row};
use crate::control::protocol::Request;

/// Options of `mcpfs ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Refused servers too, with the reason.
    #[arg(long)]
    pub all: bool,
}

/// All servers, page by page.
///
/// # Errors
/// If no daemon answers.
pub fn run(door: &Door, args: &Args) -> Result<String, CommandError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut after = None;
    loop {
        let page: Page = door.ask(&Request::List { all: args.all, after })?;
        rows.extend(page.servers);
        match page.next {
            // Names only rise, so a confused daemon cannot keep us here.
            Some(next) if rows.last().is_some_and(|row| row.name == next) => after = Some(next),
            _ => break,
        }
    }
    Ok(door.show(&rows, |rows| table(rows)))
}

fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            let said = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), bounded);
            let last = match &row.refused {
                Some(reason) => format!("refused: {} ({})", bounded(&reason.code), bounded(&reason.message)),
                None => said(&row.description),
            };
            [bounded(&row.name), said(&row.version), said(&row.data_classification), last]
        })
        .collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (name, version, class) = (width(0), width(1), width(2));
    cells.iter().map(|[a, b, c, d]| format!("{a:name$}  {b:version$}  {c:class$}  {d}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::facts::Reason;

    #[test]
    fn a_table() {
        let row = |name: &str| Row {
            name: name.to_owned(),
            version: None,
            data_classification: None,
            description: None,
            refused: None,
        };
        let rows = [
            Row {
                version: Some("1.2.0".to_owned()),
                data_classification: Some("confidential".to_owned()),
                description: Some("Reads\u{7} the warehouse.".to_owned()),
                ..row("internal-postgres")
            },
            Row {
                refused: Some(Reason { code: "Revoked".to_owned(), message: "CVE-2026-1234".to_owned() }),
                ..row("x")
            },
        ];
        assert_eq!(
            table(&rows),
            "internal-postgres  1.2.0  confidential  Reads\\u{7} the warehouse.\n\
             x                  -      -             refused: Revoked (CVE-2026-1234)\n"
        );
        assert_eq!(table(&[]), "");
    }
}
