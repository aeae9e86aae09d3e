//! OCI manifests and image configs, as far as a release needs them.
//!
//! A manifest is the artefact (its digest is what a recipe pins); config and layers are its parts,
//! named in it by digest and size. Both documents are JSON of somebody else's making: bounded,
//! without duplicate keys and not deep before any type is given to them, and read for a few fields
//! only. Unknown fields are left alone, since all tools of that world add some; what decides
//! *which bytes* there are (media types, digests, sizes, places) is strict.
//!
//! The types are ours: oci-spec brings builders and getters for a whole engine, and these are six.

use std::collections::BTreeMap;

use mcpfs_trust::digest::Digest;
use mcpfs_trust::error::{VerifyError, bounded};
use mcpfs_trust::json;
use serde::{Deserialize, Serialize};

/// A manifest, index or config, bytes: what registries accept.
pub const DOCUMENT_BYTES: u64 = 4 << 20;
/// Layers of an image: one more than any engine stacks.
pub const LAYERS: usize = 128;

/// What a manifest names besides itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Whether it is an image; else an artifact, whose one layer is an archive.
    pub is_image: bool,
    /// The config.
    pub config: Part,
    /// The layers, lowest first.
    pub layers: Vec<Part>,
}

/// One blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its digest.
    pub sha256: Digest,
    /// Its size, bytes.
    pub size: u64,
}

/// What stands under a digest or tag in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// The manifest of one platform.
    Manifest(Manifest),
    /// A list of manifests.
    Index(Vec<Listed>),
}

/// One manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Such as `linux/amd64`; `unknown` where it has none.
    pub platform: String,
    /// Its digest.
    pub sha256: Digest,
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Such as `linux/amd64`.
    pub platform: String,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// How it is started.
    pub start: Start,
}

/// The part of a config that says how an image is started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Start {
    /// The program and its first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Further arguments, or all of it.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value` each.
    pub env: Option<Vec<String>>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// Who it runs as.
    pub user: Option<String>,
    /// Paths that it expects to write.
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
    /// Ports that it listens on.
    pub exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    /// What builders say of it, such as `org.opencontainers.image.version`.
    pub labels: Option<BTreeMap<String, serde_json::Value>>,
}

/// A document that is not one.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not JSON within bounds.
    #[error("not a JSON document")]
    Json(#[source] VerifyError),
    /// JSON, but not of this kind.
    #[error("{0}")]
    Content(String),
}

const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// What to accept when a manifest is asked for: indexes too, so that their list can be shown.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<RawPart>,
    layers: Option<Vec<RawPart>>,
    manifests: Option<Vec<RawPart>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPart {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct RawConfig {
    architecture: String,
    os: String,
    rootfs: RawRoot,
    config: Option<Start>,
}

#[derive(Deserialize)]
struct RawRoot {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<String>,
}

/// Whether what an artefact's address names is a manifest.
pub fn is_manifest(url: &str) -> bool {
    url.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("oci:"))
}

impl Document {
    /// Reads a manifest or an index.
    ///
    /// # Errors
    /// If it is neither, or names what cannot be fetched.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let raw: RawDocument = read(bytes, "manifest")?;
        if raw.schema_version != 2 {
            return content(format!("a manifest of schema version {}, not 2", raw.schema_version));
        }
        let said = raw.media_type.as_deref();
        match (raw.config, raw.layers, raw.manifests) {
            // A document that can be read as either means one thing to one tool and another to the next.
            (None, None, Some(list)) if said.is_none_or(|said| INDEXES.contains(&said)) => {
                Ok(Self::Index(list.iter().map(RawPart::listed).collect::<Result<_, _>>()?))
            }
            (Some(config), Some(layers), None) if said.is_none_or(|said| MANIFESTS.contains(&said)) => {
                let is_image = CONFIGS.contains(&config.media_type.as_str());
                Ok(Self::Manifest(manifest(is_image, &config, &layers)?))
            }
            _ => content("neither a manifest nor an index of the OCI or Docker format".to_owned()),
        }
    }
}

impl Manifest {
    /// Reads the manifest of one platform.
    ///
    /// # Errors
    /// If it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        match Document::parse(bytes)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => content("an index, not the manifest of one platform".to_owned()),
        }
    }

    /// Config and layers, each once.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = vec![self.config];
        for layer in &self.layers {
            // One digest with two sizes is two parts, and one of them will not fit.
            if !parts.contains(layer) {
                parts.push(*layer);
            }
        }
        parts
    }
}

impl Config {
    /// Reads an image's config.
    ///
    /// # Errors
    /// If it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let raw: RawConfig = read(bytes, "image config")?;
        if raw.rootfs.kind != "layers" {
            return content("an image config whose rootfs is not made of layers".to_owned());
        }
        let diff_ids = raw.rootfs.diff_ids.iter().map(|text| digest(text)).collect::<Result<_, _>>()?;
        let platform = format!("{}/{}", raw.os, raw.architecture);
        Ok(Self { platform, diff_ids, start: raw.config.unwrap_or_default() })
    }
}

impl RawPart {
    fn part(&self) -> Result<Part, ImageError> {
        Ok(Part { sha256: digest(&self.digest)?, size: self.size })
    }

    fn listed(&self) -> Result<Listed, ImageError> {
        let platform = self.platform.as_ref().map(|own| format!("{}/{}", own.os, own.architecture));
        Ok(Listed { platform: bounded(&platform.unwrap_or("unknown".to_owned())), sha256: digest(&self.digest)? })
    }
}

fn manifest(is_image: bool, config: &RawPart, layers: &[RawPart]) -> Result<Manifest, ImageError> {
    if layers.len() > LAYERS {
        return content(format!("{} layers, at most {LAYERS} are taken", layers.len()));
    }
    if layers.is_empty() {
        return content("no layers".to_owned());
    }
    if !is_image && layers.len() != 1 {
        return content(format!("an artifact of {} layers; one that is an archive is taken", layers.len()));
    }
    let elsewhere = |layer: &&RawPart| {
        layer.media_type.contains("foreign") || layer.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    };
    if let Some(layer) = layers.iter().find(elsewhere) {
        return content(format!("the layer {} lies outside its registry", bounded(&layer.digest)));
    }
    if config.size > DOCUMENT_BYTES {
        return content(format!("a config of {} bytes, at most {DOCUMENT_BYTES} are taken", config.size));
    }
    let layers = layers.iter().map(RawPart::part).collect::<Result<_, _>>()?;
    Ok(Manifest { is_image, config: config.part()?, layers })
}

fn digest(text: &str) -> Result<Digest, ImageError> {
    let hex = text.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
    hex.ok_or_else(|| ImageError::Content(format!("{:?} is not a sha256 digest", bounded(text))))
}

fn content<T>(problem: String) -> Result<T, ImageError> {
    Err(ImageError::Content(problem))
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, ImageError> {
    let value = json::value(bytes, DOCUMENT_BYTES, what).map_err(ImageError::Json)?;
    serde_json::from_value(value).map_err(|error| ImageError::Content(bounded(&format!("not a {what}: {error}"))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::{Value, json};

    use super::*;

    fn sha(text: &str) -> String {
        format!("sha256:{}", Digest::of(text.as_bytes()))
    }

    fn part(kind: &str, text: &str) -> Value {
        json!({"mediaType": kind, "digest": sha(text), "size": text.len(), "annotations": {"a": "b"}})
    }

    fn image() -> Value {
        let layer = |text| part("application/vnd.oci.image.layer.v1.tar+gzip", text);
        json!({"schemaVersion": 2, "mediaType": MANIFESTS[0], "config": part(CONFIGS[0], "config"),
               "layers": [layer("one"), layer("two"), layer("one")]})
    }

    fn parse(value: &Value) -> Result<Document, ImageError> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn manifests_and_indexes() {
        let Document::Manifest(found) = parse(&image()).unwrap() else { panic!("a manifest") };
        assert!(found.is_image);
        assert_eq!((found.layers.len(), found.parts().len()), (3, 3));
        assert_eq!(found.config.size, 6);
        let index = json!({"schemaVersion": 2, "manifests": [
            {"mediaType": MANIFESTS[0], "digest": sha("a"), "size": 1, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            {"mediaType": MANIFESTS[0], "digest": sha("b"), "size": 1},
        ]});
        let Document::Index(listed) = parse(&index).unwrap() else { panic!("an index") };
        assert_eq!(listed[0], Listed { platform: "linux/arm64".to_owned(), sha256: Digest::of(b"a") });
        assert_eq!(listed[1].platform, "unknown");
        assert!(Manifest::parse(index.to_string().as_bytes()).is_err());
    }

    #[test]
    fn what_is_not_a_manifest() {
        type Edit = fn(&mut Value);
        let many = |value: &mut Value| value["layers"] = Value::Array(vec![value["layers"][0].clone(); 1000]);
        let cases: [(Edit, &str); 12] = [
            (|v| v["schemaVersion"] = json!(1), "schema version 1"),
            (|v| v["mediaType"] = json!("text/html"), "neither"),
            (|v| v["mediaType"] = json!(INDEXES[0]), "neither"),
            (|v| v["manifests"] = json!([]), "neither"),
            (|v| v["layers"] = json!([]), "no layers"),
            (many, "1000 layers"),
            (|v| v["layers"][0]["digest"] = json!("sha512:00"), "not a sha256 digest"),
            (|v| v["layers"][0]["digest"] = json!("sha256:../../etc/passwd"), "not a sha256 digest"),
            (|v| v["layers"][0]["size"] = json!(-1), "not a manifest"),
            (|v| v["layers"][0]["urls"] = json!(["http://169.254.169.254/"]), "outside its registry"),
            (|v| v["config"]["size"] = json!(1_u64 << 40), "bytes, at most"),
            (|v| v["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"), "artifact of 3 layers"),
        ];
        for (edit, words) in cases {
            let mut value = image();
            edit(&mut value);
            let error = parse(&value).expect_err(words).to_string();
            assert!(error.contains(words), "{error} says nothing of {words}");
        }
        let deep = format!("{{\"schemaVersion\":2,\"x\":{}1{}}}", "[".repeat(9000), "]".repeat(9000));
        for bytes in ["", "<html>", "[]", "{\"schemaVersion\":2,\"schemaVersion\":2}", &deep] {
            assert!(Document::parse(bytes.as_bytes()).is_err(), "{}", &bytes[..bytes.len().min(40)]);
        }
    }

    #[test]
    fn configs() {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha("a")]},
                            "config": {"Entrypoint": null, "Cmd": ["node"], "Env": ["A=b"], "WorkingDir": "/app",
                                       "Volumes": {"/data": {}}, "Labels": {"x": "y"}}, "history": []});
        let read = Config::parse(config.to_string().as_bytes()).unwrap();
        assert_eq!((read.platform.as_str(), read.diff_ids.len()), ("linux/amd64", 1));
        assert_eq!((read.start.entrypoint, read.start.cmd), (None, Some(vec!["node".to_owned()])));
        assert!(Config::parse(b"{}").is_err());
        assert!(Config::parse(config.to_string().replace("layers", "other").as_bytes()).is_err());
    }
}
