//! Machine code that lies in an artefact.

use std::io::Read as _;

use mcpfs_trust::tree::{Kind, NodeId, Tree};

use crate::unpack::Spool;

/// Machine code by its first bytes or its name, wherever it lies.
pub(crate) fn native(tree: &Tree, spool: &Spool) -> Vec<(String, String)> {
    let found = (1..tree.len()).map(NodeId).filter_map(|id| {
        let node = tree.node(id)?;
        let Kind::File { sha256, .. } = node.kind else { return None };
        let mut magic = [0; 4];
        let begin = spool.reader(&sha256).is_some_and(|mut reader| reader.read_exact(&mut magic).is_ok());
        let what = match (begin, &magic) {
            (true, b"\x7fELF") => "ELF machine code",
            (true, [0xcf | 0xce, 0xfa, 0xed, 0xfe]) => "Mach-O machine code",
            (true, [b'M', b'Z', ..]) => "Windows machine code",
            (true, b"\0asm") => WEB_ASSEMBLY,
            _ if node.name.ends_with(".node") => "a native module by its name",
            _ => return None,
        };
        Some((tree.path(id), format!("is {what}, which no reviewer can read")))
    });
    found.collect()
}

/// Machine code that runs anywhere.
const WEB_ASSEMBLY: &str = "WebAssembly";

/// The path of the first machine code that runs on one platform only.
pub(crate) fn for_one_platform(native: &[(String, String)]) -> Option<&str> {
    native.iter().find(|(_, message)| !message.contains(WEB_ASSEMBLY)).map(|(path, _)| path.as_str())
}
