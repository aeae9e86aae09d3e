//! mcpfs-yara: looks for malicious patterns by YARA rules, on behalf of mcpfs-signer.
//!
//! It is a program of its own for two reasons: the engine takes minutes to build, and it reads
//! hostile files with a compiler inside. So it has no rights: rules and files come through its
//! standard input, and before the first byte of them it gives up everything else ([`confine`]).
//! It decides nothing. What the signer asks and what it answers is [`protocol`].

mod confine;
#[path = "../../src/check/patterns/protocol.rs"]
mod protocol;
mod scan;

#[cfg(test)]
mod tests;

use std::io::{BufReader, BufWriter};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => {}
        (Some("--version"), None) => {
            println!("{} ({})", scan::PROGRAM, scan::engine());
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!(
                "usage: mcpfs-yara [--version]\nmcpfs-signer starts it for check --patterns; it is not for people"
            );
            return ExitCode::from(2);
        }
    }
    if let Err(error) = confine::confine() {
        eprintln!("mcpfs-yara: {error}; hostile files are not read without it");
        return ExitCode::from(1);
    }
    let input = BufReader::with_capacity(1 << 16, std::io::stdin());
    match scan::serve(input, BufWriter::new(std::io::stdout())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mcpfs-yara: {error}");
            ExitCode::from(1)
        }
    }
}
