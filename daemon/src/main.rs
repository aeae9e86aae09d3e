//! `mcpfs`, under the name `launch` the launcher that `run` names, and under another what reads a credential.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if mcpfs::launch::invoked(args.first().map(|arg| arg.as_os_str())) {
        return mcpfs::launch::run(args);
    }
    if mcpfs::credentials::invoked(args.first().map(|arg| arg.as_os_str())) {
        return mcpfs::credentials::run();
    }
    mcpfs::cli::main(args)
}
