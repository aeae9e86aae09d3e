//! Keys in AWS KMS: moto stands for it, and checks who asks and how each request is signed.

use mcpfs_tests::forge;
use mcpfs_tests::host::Reads;
use mcpfs_tests::kms::Kms;
use mcpfs_tests::scratch;
use mcpfs_tests::suite::Suite;
use mcpfs_tests::tls::{Asks, TlsSite};

use crate::keys::{Publisher, examples_accept, id_by_openssl, shown};

pub(crate) fn register(suite: &mut Suite) {
    suite.mounted("kms::a_kms_signs_what_a_host_launches", a_kms_signs_what_a_host_launches);
    suite.plain("kms::credentials_come_from_where_they_should", credentials_come_from_where_they_should);
    suite.plain("kms::keys_that_are_not_fit", keys_that_are_not_fit);
    suite.plain("kms::bent_answers", bent_answers);
    suite.plain("kms::a_kms_that_is_not_there", a_kms_that_is_not_there);
    suite.plain("kms::as_written", as_written);
}

fn publisher(kms: &Kms) -> Publisher<'_> {
    Publisher::new(kms.uri("head"), kms.uri("release"), move || kms.signer())
}

fn a_kms_signs_what_a_host_launches(reads: Reads) {
    let kms = Kms::new();
    let publisher = publisher(&kms);
    publisher.release().ok();
    publisher.verified();
    let facts = shown(kms.signer(), &kms.uri("release"));
    assert_eq!(facts["algorithm"], "ecdsa-p256");
    let pem = facts["pem"].as_str().unwrap();
    assert_eq!(facts["id"], id_by_openssl(pem));
    let entry = forge::read(&publisher.site().join("servers/hello.json"));
    assert_eq!(entry["signature"]["signatures"][0]["keyid"], facts["id"]);
    examples_accept(&publisher.site(), pem);
    // By its ARN it is the same key.
    assert_eq!(shown(kms.signer(), &kms.uri_of("release"))["id"], facts["id"]);
    publisher.is_launched(reads);
    // What is a token's alone is said, with what to do instead.
    for command in [&["generate", "--key"][..], &["prove", "--key"], &["list", "--token"]] {
        kms.signer().arg("keys").args(command).arg(kms.uri("head")).exits(1).says("aws kms create-key");
    }
}

fn credentials_come_from_where_they_should() {
    let kms = Kms::new();
    let uri = kms.uri("release");
    let show = |run: mcpfs_tests::command::Run| run.args(["keys", "show", "--key", &uri]);
    let (id, secret) = kms.access_key("publisher");
    show(kms.signer()).ok();
    show(kms.stranger()).exits(1).says("no AWS credentials").says("AWS_PROFILE");
    // A profile, the usual one and one by name.
    let file = kms.home(".aws/credentials");
    std::fs::create_dir(kms.home(".aws")).unwrap();
    let (guest, guests) = kms.access_key("guest");
    let section = |name: &str, id: &str, secret: &str| {
        format!("[{name}]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
    };
    std::fs::write(&file, section("default", &guest, &guests) + &section("signing", &id, &secret)).unwrap();
    show(kms.stranger()).exits(1).says("kms:Sign");
    show(kms.stranger().env("AWS_PROFILE", "signing")).ok();
    show(kms.stranger().env("AWS_PROFILE", "nobody")).exits(1).says("[nobody]");
    // A systemd credential goes before all.
    std::fs::write(kms.home("mcpfs-kms"), section("default", &id, &secret)).unwrap();
    show(kms.signer_as("guest").env("CREDENTIALS_DIRECTORY", kms.home(""))).ok();
    // Wrong ones are told, and the secret is not.
    let ran =
        show(kms.stranger().env("AWS_ACCESS_KEY_ID", &id).env("AWS_SECRET_ACCESS_KEY", "not-the-secret")).exits(1);
    assert!(!ran.text().contains("not-the-secret") && ran.text().contains("credentials"), "{ran}");
    let ran = show(kms.stranger().env("AWS_ACCESS_KEY_ID", &id).env("AWS_SECRET_ACCESS_KEY", "new\nline")).exits(1);
    assert!(!ran.text().contains("line"), "{ran}");
    show(kms.signer_as("guest")).exits(1).says("kms:DescribeKey");
}

fn keys_that_are_not_fit() {
    let kms = Kms::new();
    let show = |uri: &str| kms.signer().args(["keys", "show", "--key", uri]).exits(1);
    show(&kms.uri_of("disabled")).says("its state is Disabled");
    show(&kms.uri_of("symmetric")).says("not for SIGN_VERIFY");
    show(&kms.uri_of("p384")).says("ECC_NIST_P384").says("hosts verify ECC_NIST_P256");
    show(&kms.uri_of("imported")).says("not made inside");
    show(&kms.uri("nobody")).says("See the key's id or alias");
    // An address that a secret would be sent to in the clear, and things that nobody means.
    for (uri, why) in [
        ("awskms:///alias/x?region=eu-central-1&endpoint=http://kms.example.com", "endpoint is not https://"),
        ("awskms:///alias/x", "region= is missing"),
        ("awskms:///alias/x?region=eu-central-1&secret=4711", "\"secret\" is not known here"),
    ] {
        // A wrong command line, not a key that was refused.
        let ran = kms.signer().args(["keys", "show", "--key", uri]).exits(2).says(why);
        assert!(!ran.text().contains("4711"), "{ran}");
    }
}

fn bent_answers() {
    let kms = Kms::new();
    let publisher = publisher(&kms);
    kms.fault("busy 2");
    publisher.release().ok();
    kms.fault("high");
    publisher.write("1.1.0");
    publisher.release().ok();
    publisher.verified();
    publisher.write("1.2.0");
    let head = || std::fs::read(publisher.site().join("head.json")).unwrap();
    let before = head();
    for (word, code, why) in [
        ("other", 4, "SelfVerifyFailed"),
        ("cut", 4, "SelfVerifyFailed"),
        ("moved", 1, "HTTP 307"),
        ("page", 1, "cannot be used"),
        ("long", 1, "it is too long"),
        ("denied", 1, "AccessDeniedException"),
        ("disabled", 1, "Enable the key"),
        ("down", 3, "HTTP 503"),
        ("busy 9", 3, "ThrottlingException"),
        ("drip", 3, "did not answer Sign after"),
    ] {
        kms.fault(word);
        publisher.release().exits(code).says(why);
        assert_eq!(head(), before, "{word}");
        publisher.verified();
    }
    let entry = forge::read(&publisher.site().join("servers/hello.json"));
    assert_eq!(entry["version"], "1.1.0");
    kms.fault("");
    publisher.release().ok();
    publisher.verified();
}

fn a_kms_that_is_not_there() {
    let mut kms = Kms::new();
    let uri = kms.uri("release");
    // TLS of an authority that nobody here knows: not even asked who we are.
    let dir = scratch::dir();
    let https = TlsSite::serve(dir.path(), Asks::Nothing);
    let elsewhere = format!("awskms:///alias/x?region=eu-central-1&endpoint={}", https.url().trim_end_matches('/'));
    let ran = kms.signer().args(["keys", "show", "--key", &elsewhere]).exits(3);
    assert!(ran.text().to_lowercase().contains("certificate"), "{ran}");
    kms.stop();
    kms.signer().args(["keys", "show", "--key", &uri]).exits(3).says("did not answer DescribeKey after 5 tries");
}

/// docs/publishing.md, "AWS KMS": its lines as they stand there, but for the address.
fn as_written() {
    let kms = Kms::new();
    let text = std::fs::read_to_string(scratch::repository().join("docs/publishing.md")).unwrap();
    let (_, section) = text.split_once("### AWS KMS\n").unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let script = block.replace("?region=$R", &format!("?region=$R&endpoint={}", kms.endpoint()));
    let dir = scratch::dir();
    let ran = kms.script(&script, dir.path()).ok().says("algorithm  ecdsa-p256");
    assert!(dir.path().join("trust.json").exists(), "{ran}");
}
