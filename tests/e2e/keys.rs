//! Keys of both algorithms, in SoftHSM and in a TPM: made, proven, used, and gone.

use std::path::PathBuf;

use mcpfs_tests::command::{Ran, Run};
use mcpfs_tests::fixture::{self, Recipe};
use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::hsm::Hsm;
use mcpfs_tests::kms::Kms;
use mcpfs_tests::mcp::McpClient;
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::files_below;
use mcpfs_tests::scratch::{self, need};
use mcpfs_tests::servers;
use mcpfs_tests::site::Site;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::tpm::Tpm;
use mcpfs_trust::key::{Algorithm, PublicKey};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("keys::a_registry_of_both_algorithms", a_registry_of_both_algorithms);
    suite.mounted("keys::a_tpm_signs_what_a_host_launches", a_tpm_signs_what_a_host_launches);
    suite.plain("keys::a_tpm_taken_out_between_two_signatures", a_tpm_taken_out_between_two_signatures);
    suite.plain("keys::a_token_folder_gone_between_two_signatures", a_token_folder_gone_between_two_signatures);
    suite.plain("keys::a_wrong_pin_is_tried_once", a_wrong_pin_is_tried_once);
    suite.plain("keys::p256_keys_that_are_not_fit", p256_keys_that_are_not_fit);
    suite.plain("keys::securesystemslib_and_we_agree", securesystemslib_and_we_agree);
    suite.plain("keys::a_tpm_as_written", a_tpm_as_written);
}

/// A publisher whose keys are wherever their URIs say; gone on drop.
pub(crate) struct Publisher<'t> {
    signer: Box<dyn Fn() -> Run + 't>,
    head: String,
    release: String,
    dir: tempfile::TempDir,
}

const REGISTRY: &str = "mcp.example.com/test";

impl<'t> Publisher<'t> {
    /// With a trust root, and the recipe of a server.
    pub(crate) fn new(head: String, release: String, signer: impl Fn() -> Run + 't) -> Self {
        let dir = scratch::dir();
        let artefacts = dir.path().join("artefacts");
        for folder in [&artefacts, &dir.path().join("servers")] {
            std::fs::create_dir(folder).unwrap();
        }
        let publisher = Self { signer: Box::new(signer), head, release, dir };
        publisher.trust_init().arg("--out").arg(publisher.trust()).ok();
        publisher.write("1.0.0");
        publisher
    }

    fn signer(&self) -> Run {
        (self.signer)().env("MCPFS_SIGNER_STATE", self.path("state"))
    }

    fn trust_init(&self) -> Run {
        let run = self.signer().args(["trust", "init", "--registry", REGISTRY]);
        run.args(["--head-key", &self.head, "--release-key", &self.release])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn trust(&self) -> PathBuf {
        self.path("trust.json")
    }

    pub(crate) fn site(&self) -> PathBuf {
        self.path("site")
    }

    /// The recipe of this version of hello.
    pub(crate) fn write(&self, version: &str) {
        let artefact = fixture::tar(&fixture::hello_tree(&self.path("artefacts"), version));
        let recipe = Recipe::new("hello", version, &artefact).with(fixture::HELLO_LAUNCH);
        std::fs::write(self.path("servers/hello.yaml"), recipe.yaml()).unwrap();
    }

    pub(crate) fn release(&self) -> Run {
        let run = self.signer().arg("release").arg(self.path("servers/hello.yaml"));
        run.arg("--site").arg(self.site()).arg("--trust").arg(self.trust()).args(["--head-key", &self.head]).args([
            "--key",
            &self.release,
            "--file-root",
            self.path("artefacts").to_str().unwrap(),
        ])
    }

    pub(crate) fn verified(&self) -> Ran {
        Run::new(mcpfs_tests::binaries::bin("mcpfs"))
            .arg("verify")
            .arg(self.site())
            .arg("--trust")
            .arg(self.trust())
            .ok()
    }

    /// A host shows it, and a client speaks with it.
    pub(crate) fn is_launched(&self, reads: Reads) {
        let site = Site::serve(&self.site());
        let host = Host::new(&self.trust(), &site.url(), reads);
        let _mount = Mount::start(&host);
        host.refresh();
        let mut client = McpClient::start(&host.at("hello/run"));
        client.initialize();
        assert_eq!(client.call("echo", &serde_json::json!({"message": "signed"})), "signed");
        client.end();
    }
}

/// What `keys show` says of a key.
pub(crate) fn shown(run: Run, uri: &str) -> serde_json::Value {
    run.args(["--json", "keys", "show", "--key", uri]).ok().json()
}

/// A key's id by coreutils: the digest of what openssl writes as DER.
pub(crate) fn id_by_openssl(pem: &str) -> String {
    let script = "openssl pkey -pubin -outform DER | sha256sum";
    let ran = Run::new("sh").args(["-euc", script]).stdin(pem).ok();
    ran.stdout.split(' ').next().unwrap().to_owned()
}

/// One line of openssl, and node:crypto: they know nothing of us.
pub(crate) fn examples_accept(site: &std::path::Path, pem: &str) {
    let dir = scratch::dir();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, pem).unwrap();
    let examples = scratch::repository().join("signer/examples");
    for (program, script) in [
        (need("bash", "bash"), examples.join("verify-release.sh")),
        (need("node", "nodejs"), examples.join("verify-release.mjs")),
    ] {
        let run = || Run::new(&program).arg(&script).arg(site).args([REGISTRY, "hello"]).arg(&file).dir(dir.path());
        run().ok().says("ok hello 1.0.0");
    }
}

fn a_registry_of_both_algorithms(reads: Reads) {
    let hsm = Hsm::new();
    let (head, release) = (hsm.uri("head"), hsm.uri("release"));
    hsm.signer().args(["keys", "generate", "--key", &head]).ok().says("ed25519");
    hsm.signer().args(["keys", "generate", "--algorithm", "ecdsa-p256", "--key", &release]).ok().says("ecdsa-p256");
    hsm.signer().args(["keys", "prove", "--key", &release]).ok().says("refused by the token");
    let access = hsm.access("release");
    assert!(access.contains("never extractable") && access.contains("local"), "{access}");
    let list = hsm.signer().args(["--json", "keys", "list", "--token"]).arg(hsm.uri("release")).ok().json();
    assert_eq!((&list[0]["algorithm"], &list[0]["fit"]), (&"ecdsa-p256".into(), &true.into()), "{list}");

    let publisher = Publisher::new(head, release.clone(), || hsm.signer());
    let root = hsm.signer().args(["trust", "show"]).arg(publisher.trust()).ok();
    let facts = shown(hsm.signer(), &release);
    let pem = facts["pem"].as_str().unwrap();
    assert_eq!(facts["id"], id_by_openssl(pem));
    root.clone().says(&format!("{}  ecdsa-p256", facts["id"].as_str().unwrap())).says("ed25519 ");

    // The same root from public halves alone: base64, its SubjectPublicKeyInfo, and a file of PEM.
    let file = publisher.path("release.pem");
    std::fs::write(&file, pem).unwrap();
    let spki: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    for public in [facts["public"].as_str().unwrap(), &spki, file.to_str().unwrap()] {
        let out = publisher.path("again.json");
        hsm.signer()
            .args(["trust", "init", "--force", "--registry", REGISTRY, "--head-key", &publisher.head])
            .args(["--release-key", public, "--out"])
            .arg(&out)
            .ok();
        assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(publisher.trust()).unwrap(), "{public}");
    }
    let compressed = "openssl ec -pubin -conv_form compressed -outform DER 2>/dev/null | base64 -w0";
    let compressed = Run::new("sh").args(["-euc", compressed]).stdin(pem).ok().stdout;
    hsm.signer()
        .args(["trust", "init", "--force", "--registry", REGISTRY, "--head-key", &publisher.head])
        .args(["--release-key", &compressed])
        .arg("--out")
        .arg(publisher.path("again.json"))
        .exits(2)
        .says("not compressed");

    publisher.release().ok();
    publisher.verified();
    let entry = forge::read(&publisher.site().join("servers/hello.json"));
    assert_eq!(entry["signature"]["signatures"][0]["keyid"], facts["id"]);
    examples_accept(&publisher.site(), pem);
    // Another nonce makes another signature; nothing is published twice for that.
    let before = entry["signature"].clone();
    publisher.release().ok();
    assert_eq!(forge::read(&publisher.site().join("servers/hello.json"))["signature"], before);
    publisher.is_launched(reads);
}

fn a_tpm_signs_what_a_host_launches(reads: Reads) {
    let tpm = Tpm::new();
    let (head, release) = (tpm.uri("head"), tpm.uri("release"));
    // It has no Ed25519, and says what to do instead.
    let ran = tpm.signer().args(["keys", "generate", "--key", &head]).exits(1);
    ran.says("add --algorithm ecdsa-p256");
    for key in [&head, &release] {
        tpm.signer().args(["keys", "generate", "--algorithm", "ecdsa-p256", "--key", key]).ok().says("ecdsa-p256");
    }
    let publisher = Publisher::new(head, release.clone(), || tpm.signer());
    publisher.release().ok();
    publisher.verified();
    let facts = shown(tpm.signer(), &release);
    assert_eq!(facts["id"], id_by_openssl(facts["pem"].as_str().unwrap()));
    examples_accept(&publisher.site(), facts["pem"].as_str().unwrap());
    publisher.is_launched(reads);
    assert_eq!(tpm.wrong_tries(), 0);
    // What tpm2-pkcs11 keeps of a key beside the TPM can be rewritten; a key of which that was done is refused.
    tpm.signer().args(["keys", "prove", "--key", &release]).exits(1).says("it can be made extractable");
    tpm.signer().args(["keys", "show", "--key", &release]).exits(1).says("it is extractable");
    publisher.write("1.1.0");
    publisher.release().exits(1).says("it is extractable");
    publisher.verified();
}

fn a_tpm_taken_out_between_two_signatures() {
    let tpm = Tpm::new();
    let (head, release) = (tpm.uri("head"), tpm.uri("release"));
    for key in [&head, &release] {
        tpm.signer().args(["keys", "generate", "--algorithm", "ecdsa-p256", "--key", key]).ok();
    }
    let publisher = Publisher::new(head, release, || tpm.signer());
    publisher.release().ok();
    let published = || {
        let files = files_below(&publisher.site());
        let digests: Vec<_> = files.iter().map(|file| fixture::sha256_of(&publisher.site().join(file))).collect();
        (files, digests)
    };
    let head_before = std::fs::read(publisher.site().join("head.json")).unwrap();
    let (files, _) = published();
    publisher.write("1.1.0");
    // The release's statement is signed, and the TPM is gone before the head.
    let ran = tpm.unplugged_after(1, publisher.release());
    ran.says("did not sign").says("repeat the command");
    assert_eq!(std::fs::read(publisher.site().join("head.json")).unwrap(), head_before);
    let entry = forge::read(&publisher.site().join("servers/hello.json"));
    assert_eq!(entry["version"], "1.0.0");
    publisher.verified();
    assert!(files.iter().all(|file| publisher.site().join(file).exists()));
    // Back in: the same command does what it did not.
    tpm.plug();
    publisher.release().ok();
    publisher.verified();
    assert_eq!(forge::read(&publisher.site().join("servers/hello.json"))["version"], "1.1.0");
    // And before the first signature.
    publisher.write("1.2.0");
    let before = published();
    tpm.unplugged_after(0, publisher.release()).says("did not sign");
    let after = published();
    let head_of = |(files, digests): &(Vec<String>, Vec<String>)| {
        files.iter().position(|file| file == "head.json").map(|at| digests[at].clone())
    };
    assert_eq!(head_of(&before), head_of(&after));
    publisher.verified();
}

/// Release keys in a KMS, head keys in SoftHSM, whose folder is moved away while the KMS signs.
fn a_token_folder_gone_between_two_signatures() {
    let (kms, hsm) = (Kms::new(), Hsm::new());
    let head = hsm.uri("head");
    hsm.signer().args(["keys", "generate", "--key", &head]).ok();
    let publisher =
        Publisher::new(head, kms.uri("release"), || hsm.with_token(kms.signer()).env("MCPFS_PIN_FILE", hsm.pin_file()));
    publisher.release().ok();
    let head_before = std::fs::read(publisher.site().join("head.json")).unwrap();
    publisher.write("1.1.0");
    kms.fault(&format!("gone {}", hsm.tokens().display()));
    let ran = publisher.release().exits(1).says("is gone: it had the key head when this command began");
    assert!(!ran.text().contains("keys generate"), "a new key is no help: {ran}");
    assert!(!hsm.tokens().exists(), "the release was signed");
    assert_eq!(std::fs::read(publisher.site().join("head.json")).unwrap(), head_before);
    assert_eq!(forge::read(&publisher.site().join("servers/hello.json"))["version"], "1.0.0");
    publisher.verified();
    kms.fault("");
    publisher.release().exits(1);
    assert_eq!(std::fs::read(publisher.site().join("head.json")).unwrap(), head_before);
    // Back again: the same command does what it did not.
    std::fs::rename(hsm.tokens().with_extension("away"), hsm.tokens()).unwrap();
    publisher.release().ok();
    publisher.verified();
    assert_eq!(forge::read(&publisher.site().join("servers/hello.json"))["version"], "1.1.0");
}

fn a_wrong_pin_is_tried_once() {
    let tpm = Tpm::new();
    let (head, release) = (tpm.uri("head"), tpm.uri("release"));
    for key in [&head, &release] {
        tpm.signer().args(["keys", "generate", "--algorithm", "ecdsa-p256", "--key", key]).ok();
    }
    let publisher = Publisher::new(head, release, || tpm.signer());
    let right = std::fs::read(tpm.pin_file()).unwrap();
    std::fs::write(tpm.pin_file(), "000000\n").unwrap();
    assert_eq!(tpm.wrong_tries(), 0);
    publisher.release().exits(1).says("refused the PIN. It was not tried again");
    assert_eq!(tpm.wrong_tries(), 1, "two keys, one try");
    assert!(!publisher.site().join("head.json").exists());
    std::fs::write(tpm.pin_file(), right).unwrap();
    publisher.release().ok();
    publisher.verified();
}

fn p256_keys_that_are_not_fit() {
    let hsm = Hsm::new();
    let made = |label: &str, id: &str, kind: &str, more: &[&str]| {
        let run = hsm.pkcs11_tool().args(["--keypairgen", "--key-type", kind, "--label", label, "--id", id]);
        run.args(more).ok();
    };
    made("loose", "0a", "EC:prime256v1", &["--extractable"]);
    made("other", "0b", "EC:secp384r1", &["--sensitive"]);
    hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri("loose")).exits(1).says("extractable");
    let ran = hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri("other")).exits(1);
    ran.says("neither an Ed25519 nor a P-256 key");
    // One that was made outside: the copy stays outside.
    let dir = scratch::dir();
    let pem = dir.path().join("imported.pem");
    let openssl = || Run::new(need("openssl", "openssl")).dir(dir.path());
    openssl().args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"]).arg(&pem).ok();
    for (kind, file) in [("privkey", "private.der"), ("pubkey", "public.der")] {
        let out = dir.path().join(file);
        let run = openssl().args(["pkey", "-in"]).arg(&pem).args(["-outform", "DER", "-out"]).arg(&out);
        if kind == "pubkey" {
            run.arg("-pubout").ok()
        } else {
            run.ok()
        };
        let run = hsm.pkcs11_tool().arg("--write-object").arg(&out).args(["--type", kind, "--label", "imported"]);
        run.args(["--id", "0c", "--usage-sign"]).ok();
    }
    let ran = hsm.signer().args(["keys", "show", "--key"]).arg(hsm.uri("imported")).exits(1);
    assert!(ran.text().contains("sensitive") || ran.text().contains("not made inside"), "{ran}");
    let list = hsm.signer().args(["--json", "keys", "list", "--token"]);
    let token = format!("pkcs11:token=mcpfs?module-path={}", hsm.module().display());
    let list = list.arg(token).ok().json();
    let rows: Vec<_> = list.as_array().unwrap().iter().map(|row| (row["label"].clone(), row["fit"].clone())).collect();
    assert_eq!(rows, [("imported", false), ("loose", false), ("other", false)].map(|(a, b)| (a.into(), b.into())));
}

/// A verifier of in-toto envelopes that others wrote takes ours, and we take its signatures in
/// our form: it does not know the lower S, so about half of them as they are.
fn securesystemslib_and_we_agree() {
    let hsm = Hsm::new();
    let (head, release) = (hsm.uri("head"), hsm.uri("release"));
    hsm.signer().args(["keys", "generate", "--algorithm", "ecdsa-p256", "--key", &head]).ok();
    hsm.signer().args(["keys", "generate", "--algorithm", "ecdsa-p256", "--key", &release]).ok();
    let publisher = Publisher::new(head, release.clone(), || hsm.signer());
    publisher.release().ok();
    let entry = forge::read(&publisher.site().join("servers/hello.json"));
    let facts = shown(hsm.signer(), &release);
    let question = serde_json::json!({"envelope": entry["signature"], "pem": facts["pem"], "id": facts["id"]});
    let script = r#"
import base64, json, sys
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

question = json.load(sys.stdin)
def key(keyid, pem):
    return SSlibKey(keyid, "ecdsa", "ecdsa-sha2-nistp256", {"public": pem})
envelope = Envelope.from_dict(question["envelope"])
ours = key(question["id"], question["pem"])
assert list(envelope.verify([ours], 1)) == [question["id"]]
envelope.payload += b" "
try:
    envelope.verify([ours], 1)
    sys.exit("an altered payload was taken")
except VerificationError:
    pass
theirs = CryptoSigner.generate_ecdsa()
pem = theirs.public_key.keyval["public"].encode()
der = serialization.load_pem_public_key(pem).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
message = b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
signatures = [theirs.sign(message).signature for _ in range(32)]
print(json.dumps({"spki": der.hex(), "message": message.hex(), "signatures": signatures}))
"#;
    let ran = servers::securesystemslib().args(["-c", script]).stdin(question.to_string()).ok();
    let answer = ran.json();
    let bytes = |value: &serde_json::Value| {
        let text = value.as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect::<Vec<u8>>()
    };
    let theirs = PublicKey::from_spki_der(&bytes(&answer["spki"])).unwrap();
    assert_eq!(theirs.algorithm(), Algorithm::EcdsaP256);
    let message = bytes(&answer["message"]);
    let signatures: Vec<_> = answer["signatures"].as_array().unwrap().iter().map(bytes).collect();
    let taken = signatures.iter().filter(|signature| theirs.verify(&message, signature)).count();
    // 32 coins that all fall on one side: once in two thousand million runs.
    assert!(taken > 0 && taken < signatures.len(), "{taken} of {}", signatures.len());
    assert!(signatures.iter().all(|signature| !theirs.verify(b"another message", signature)));
}

/// docs/publishing.md, "A TPM": its lines as they stand there, but for the TPM itself.
fn a_tpm_as_written() {
    let text = std::fs::read_to_string(scratch::repository().join("docs/publishing.md")).unwrap();
    let (_, section) = text.split_once("### A TPM\n").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let tpm = Tpm::empty();
    let dir = scratch::dir();
    let path = format!(
        "{}:{}",
        mcpfs_tests::binaries::bin("mcpfs-signer").parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    // Packages are there, nobody answers questions, and this TPM has another address.
    let own = |line: &&str| !line.starts_with("apt-get") && !line.starts_with("M=") && !line.contains("export ");
    let script = block.lines().filter(own).collect::<Vec<_>>().join("\n");
    let script = script.replace("--init-token", "--init-token --so-pin 31415926");
    let script = script.replace("--init-pin", "--init-pin --so-pin 31415926 --pin 846213");
    let run = Run::new("sh").args(["-euc", &script]).env("PATH", path).env("M", tpm.module());
    let ran = tpm.with_token(run).env("MCPFS_PIN_FILE", tpm.pin_file()).dir(dir.path()).ok();
    assert!(dir.path().join("trust.json").exists(), "{ran}");
    assert_eq!(ran.stdout.matches("algorithm  ecdsa-p256").count(), 2, "{ran}");
}
