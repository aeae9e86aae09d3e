//! The end-to-end tests: real binaries, real mounts, real parts.
//!
//! `make test` runs all of them; `cargo test -p mcpfs-tests -- attacks` some;
//! `MODES=cached` only one read mode.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::ExitCode;

use mcpfs_tests::suite::Suite;

mod advisories;
mod approvals;
mod attacks;
mod audit;
mod author;
mod batches;
mod branch;
mod bundles;
mod capabilities;
mod check;
mod clients;
mod closed;
mod configured;
mod demo;
mod desk;
mod docs;
mod errno;
mod exposure;
mod flip;
mod git_tags;
mod host;
mod hostile;
mod keeping;
mod keys;
mod kinds;
mod kms;
mod launch;
mod launches;
mod mirrors;
mod oci;
mod parts;
mod patterns;
mod policy;
mod publish;
mod pull_request;
mod read;
mod readme;
mod review;
mod rules;
mod sandbox;
mod serve;
mod servers;
mod serving;
mod signer;
mod simple_client;
mod store;
mod tls;
mod told;
mod words;
mod world;
mod zoo;

fn main() -> ExitCode {
    mcpfs_tests::scratch::usual_umask();
    let mut suite = Suite::new();
    parts::register(&mut suite);
    policy::register(&mut suite);
    patterns::register(&mut suite);
    publish::register(&mut suite);
    pull_request::register(&mut suite);
    signer::register(&mut suite);
    keys::register(&mut suite);
    kms::register(&mut suite);
    check::register(&mut suite);
    capabilities::register(&mut suite);
    advisories::register(&mut suite);
    simple_client::register(&mut suite);
    launch::register(&mut suite);
    launches::register(&mut suite);
    read::register(&mut suite);
    demo::register(&mut suite);
    docs::register(&mut suite);
    readme::register(&mut suite);
    review::register(&mut suite);
    errno::register(&mut suite);
    closed::register(&mut suite);
    exposure::register(&mut suite);
    mirrors::register(&mut suite);
    host::register(&mut suite);
    hostile::register(&mut suite);
    attacks::register(&mut suite);
    audit::register(&mut suite);
    flip::register(&mut suite);
    clients::register(&mut suite);
    approvals::register(&mut suite);
    batches::register(&mut suite);
    branch::register(&mut suite);
    configured::register(&mut suite);
    serve::register(&mut suite);
    serving::register(&mut suite);
    servers::register(&mut suite);
    rules::register(&mut suite);
    told::register(&mut suite);
    tls::register(&mut suite);
    kinds::register(&mut suite);
    store::register(&mut suite);
    words::register(&mut suite);
    zoo::register(&mut suite);
    keeping::register(&mut suite);
    bundles::register(&mut suite);
    git_tags::register(&mut suite);
    author::register(&mut suite);
    oci::register(&mut suite);
    sandbox::register(&mut suite);
    let code = suite.run();
    servers::drop_registry();
    bundles::drop_registry();
    code
}
