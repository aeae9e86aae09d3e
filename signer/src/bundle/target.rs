//! What a platform is called by npm and by wheels.

use mcpfs_trust::name::Platform;

use super::SourceError;

/// A platform that bundles can be made for: Linux with glibc on one machine, or any machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    machine: Option<&'static Machine>,
}

/// One machine's names.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    platform: &'static str,
    npm: &'static str,
    wheel: &'static str,
}

const MACHINES: &[Machine] = &[
    Machine { platform: "linux/amd64", npm: "x64", wheel: "x86_64" },
    Machine { platform: "linux/arm64", npm: "arm64", wheel: "aarch64" },
    Machine { platform: "linux/386", npm: "ia32", wheel: "i686" },
    Machine { platform: "linux/ppc64le", npm: "ppc64", wheel: "ppc64le" },
    Machine { platform: "linux/s390x", npm: "s390x", wheel: "s390x" },
    Machine { platform: "linux/riscv64", npm: "riscv64", wheel: "riscv64" },
];

/// The newest glibc that wheels may ask for: that of Debian 12 and RHEL 9 has it.
const GLIBC: u32 = 34;

impl Target {
    /// The target of a platform.
    ///
    /// # Errors
    /// If packages know no such platform.
    pub fn of(platform: &Platform) -> Result<Self, SourceError> {
        if platform.is_any() {
            return Ok(Self { machine: None });
        }
        let machine = MACHINES.iter().find(|machine| machine.platform == platform.as_str());
        machine.map(|machine| Self { machine: Some(machine) }).ok_or_else(|| SourceError::Platform {
            platform: platform.clone(),
            problem: "npm and PyPI packages are bundled for any, linux/amd64, linux/arm64, linux/386, linux/ppc64le, \
                      linux/s390x and linux/riscv64",
        })
    }

    /// Whether it is for any machine.
    pub fn is_any(&self) -> bool {
        self.machine.is_none()
    }

    /// npm's word for the processor. What fits any machine fits this one too.
    pub(super) fn npm(&self) -> &'static str {
        self.machine.map_or("x64", |machine| machine.npm)
    }

    /// The tags of wheels, best first.
    pub(super) fn wheels(&self) -> Vec<String> {
        let Some(machine) = self.machine else { return vec!["any".to_owned()] };
        let mut tags: Vec<String> = Vec::new();
        for glibc in (5..=GLIBC).rev() {
            tags.push(format!("manylinux_2_{glibc}_{}", machine.wheel));
            let older = match glibc {
                17 => "manylinux2014",
                12 => "manylinux2010",
                5 => "manylinux1",
                _ => continue,
            };
            tags.push(format!("{older}_{}", machine.wheel));
        }
        tags
    }
}
