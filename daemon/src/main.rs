//! `mcpfs`, and under the name `launch` the launcher that `run` names.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if mcpfs::launch::invoked(args.first().map(|arg| arg.as_os_str())) {
        return mcpfs::launch::run(args);
    }
    mcpfs::cli::main(args)
}
