//! What machine code asks of the system: the symbols that an ELF file imports.

use object::{Object as _, ObjectSymbol as _};

use super::Capability;
use super::scan::Sighting;

/// Symbols that are looked at.
const SYMBOLS: usize = 500_000;

/// By the C library's names. Opening files is left out: everything reads some.
pub(super) const IMPORTS: &[(Capability, &[&str])] = &[
    (Capability::Network, &["socket", "connect", "getaddrinfo", "gethostbyname", "bind", "listen"]),
    (
        Capability::Exec,
        &[
            "execve",
            "execv",
            "execvp",
            "execvpe",
            "execl",
            "execlp",
            "execle",
            "fexecve",
            "posix_spawn",
            "posix_spawnp",
            "system",
            "popen",
        ],
    ),
    (
        Capability::Write,
        &[
            "unlink",
            "unlinkat",
            "rename",
            "renameat",
            "renameat2",
            "mkdir",
            "mkdirat",
            "rmdir",
            "chmod",
            "fchmod",
            "symlink",
        ],
    ),
    (Capability::Native, &["dlopen", "dlmopen"]),
    (Capability::Environment, &["getenv", "secure_getenv", "environ"]),
];

/// It is machine code, and what it imports says the rest. A file that cannot be read as ELF, or
/// is linked statically, is machine code that says nothing.
pub(super) fn look(bytes: &[u8]) -> Vec<Sighting> {
    let mut found = vec![Sighting { capability: Capability::Native, line: None, marker: "machine code" }];
    let Ok(file) = object::File::parse(bytes) else { return found };
    for symbol in file.dynamic_symbols().filter(|symbol| symbol.is_undefined()).take(SYMBOLS) {
        let Ok(name) = symbol.name() else { continue };
        let import = IMPORTS.iter().find_map(|(capability, names)| {
            names.iter().find(|known| **known == name).map(|known| (*capability, *known))
        });
        if let Some((capability, marker)) = import
            && !found.iter().any(|sighting| sighting.capability == capability)
        {
            found.push(Sighting { capability, line: None, marker });
        }
    }
    found
}
