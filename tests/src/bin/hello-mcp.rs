//! A small real MCP server over stdio: what the demo and the tests launch from the mount.
//!
//! Its version is the content of the file `VERSION` beside the binary, so that one build
//! gives releases which differ visibly, and so that a start reads a second file of the tree.
#![allow(missing_docs, reason = "the tool macros generate undocumented items")]

use std::collections::BTreeMap;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{Implementation, ServerCapabilities, ServerConfig};
use rmcp::{ServerHandler, ServiceExt, schemars, tool, tool_handler, tool_router};

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Echo {
    #[schemars(description = "the text to give back")]
    message: String,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Add {
    a: i64,
    b: i64,
}

#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
struct Place {
    #[schemars(description = "a variable")]
    variable: Option<String>,
    #[schemars(description = "or the path of a file")]
    file: Option<String>,
}

/// What `whoami` reports: all that a launcher decides about a process.
#[derive(Debug, serde::Serialize)]
struct Whoami {
    version: String,
    exe: String,
    cwd: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    uid: u32,
    pid: u32,
}

#[derive(Debug, Clone)]
struct Hello {
    version: String,
}

#[tool_router]
impl Hello {
    #[tool(description = "Gives the message back")]
    fn echo(&self, Parameters(Echo { message }): Parameters<Echo>) -> String {
        message
    }

    #[tool(description = "Adds two integers")]
    fn add(&self, Parameters(Add { a, b }): Parameters<Add>) -> String {
        a.saturating_add(b).to_string()
    }

    #[tool(description = "Says the SHA-256 of a variable's value or of a file, and neither of these")]
    fn digest(&self, Parameters(place): Parameters<Place>) -> Result<String, String> {
        let bytes = match (place.variable, place.file) {
            (Some(name), None) => std::env::var_os(&name).ok_or(format!("there is no {name}"))?.into_encoded_bytes(),
            (None, Some(path)) => std::fs::read(path).map_err(|error| error.to_string())?,
            _ => return Err("of one of them".to_owned()),
        };
        Ok(mcpfs_trust::digest::Digest::of(&bytes).to_string())
    }

    #[tool(description = "Reports version, arguments, environment, directory and user of this process")]
    fn whoami(&self) -> Result<String, String> {
        let text = |path: std::io::Result<std::path::PathBuf>| match path {
            Ok(path) => path.to_string_lossy().into_owned(),
            Err(error) => format!("unknown: {error}"),
        };
        let report = Whoami {
            version: self.version.clone(),
            exe: text(std::env::current_exe()),
            cwd: text(std::env::current_dir()),
            args: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            env: std::env::vars_os()
                .map(|(key, value)| (key.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
                .collect(),
            uid: rustix::process::getuid().as_raw(),
            pid: std::process::id(),
        };
        serde_json::to_string(&report).map_err(|error| error.to_string())
    }
}

#[tool_handler]
impl ServerHandler for Hello {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("hello", self.version.clone()))
    }
}

fn version() -> std::io::Result<String> {
    let exe = std::env::current_exe()?;
    let beside = exe.with_file_name("VERSION");
    Ok(std::fs::read_to_string(beside)?.trim().to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Hello { version: version()? }.serve(rmcp::transport::stdio()).await?;
    // Returns when the client closes our standard input.
    server.waiting().await?;
    Ok(())
}
