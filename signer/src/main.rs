//! The `mcpfs-signer` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    mcpfs_signer::cli::main()
}
