//! `mcpfs ls`: what can be started, and with `--all` what cannot and why.

use mcpfs_trust::error::{Code, bounded};

use super::{CommandError, Door};
use crate::control::client::ClientError;
use crate::control::facts::{Page, Row, Status};
use crate::control::protocol::{Refused, Request};

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
/// If no daemon answers, or none of its looks at the site came to anything yet.
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
    if rows.is_empty()
        && let Some(refused) = nothing(&door.ask(&Request::Status {})?)
    {
        return Err(ClientError::Refused(refused).into());
    }
    Ok(door.show(&rows, |rows| table(rows)))
}

/// Why an empty list says nothing about the registry, if it does not.
fn nothing(status: &Status) -> Option<Refused> {
    if status.head.is_some() {
        return None;
    }
    let never = format!("no head of {} was ever accepted, so nothing is known of its servers", status.registry);
    Some(match &status.refresh_error {
        Some(reason) => Refused {
            code: reason.code.clone(),
            message: format!("{never}: {}", bounded(&reason.message)),
            advice: "once that is put right, mcpfs refresh looks again; mcpfs status says how it stands".to_owned(),
        },
        None => Refused::new(
            Code::Unreachable,
            &format!("{never}: the first look at the site is not over"),
            "try again in a moment; mcpfs status says how it stands",
        ),
    })
}

fn table(rows: &[Row]) -> String {
    let cells: Vec<[String; 4]> = rows
        .iter()
        .map(|row| {
            let said = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), bounded);
            let last = match &row.refused {
                Some(reason) => format!("refused: {} ({})", bounded(&reason.code), bounded(&reason.message)),
                None if row.denied => format!("{} [not for you: for the group {}]", said(&row.description), {
                    row.group.as_deref().map_or_else(|| "-".to_owned(), bounded)
                }),
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
            group: None,
            denied: false,
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
            Row { group: Some("finance".to_owned()), denied: true, ..row("y") },
            Row { group: Some("finance".to_owned()), ..row("z") },
        ];
        assert_eq!(
            table(&rows),
            "internal-postgres  1.2.0  confidential  Reads\\u{7} the warehouse.\n\
             x                  -      -             refused: Revoked (CVE-2026-1234)\n\
             y                  -      -             - [not for you: for the group finance]\n\
             z                  -      -             -\n"
        );
        assert_eq!(table(&[]), "");
    }
}
