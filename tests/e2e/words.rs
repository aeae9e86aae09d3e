//! What the signer says of a command that is wrong, and with which exit code: 2 is for how it was typed.

use mcpfs_tests::command::Run;
use mcpfs_tests::quick::Quick;
use mcpfs_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("words::a_source_is_exact_and_no_option", a_source_is_exact_and_no_option);
    suite.plain("words::a_host_is_asked_only_if_it_is_listed", a_host_is_asked_only_if_it_is_listed);
    suite.plain("words::of_a_command_that_is_wrong", of_a_command_that_is_wrong);
    suite.plain("words::nobody_hears", nobody_hears);
    suite.plain("words::a_login_is_not_repeated", a_login_is_not_repeated);
    suite.plain("words::a_recipe_of_another_ending_is_seen", a_recipe_of_another_ending_is_seen);
}

fn bundle(quick: &Quick, source: &str) -> Run {
    quick.signer().args(["bundle", "--out"]).arg(quick.path("out.tar")).args(["--", source])
}

fn a_source_is_exact_and_no_option() {
    let quick = Quick::new();
    for source in ["npm:lodash", "npm:lodash@^4", "pypi:six", "pypi:six>=1", "git+https://git.example.com/x.git"] {
        bundle(&quick, source).exits(2).says("with an exact version");
    }
    for source in [
        "npm:-g@1.0.0",
        "npm:--prefix=x@1.0.0",
        "npm:@-s/x@1.0.0",
        "npm:@s/-x@1.0.0",
        "pypi:-r==1.0.0",
        "pypi:--index-url==1.0.0",
        "pypi:six==-1",
        "git+https://git.example.com/x.git#-v1",
        "git+https://git.example.com/x.git#--upload-pack=x",
    ] {
        bundle(&quick, source).exits(2).says("is not a source");
    }
    for source in ["git+ssh://git@git.example.com/x.git#v1", "git+http://git.example.com/x.git#v1"] {
        let ran = bundle(&quick, source).exits(2).says("only git+https:");
        assert!(ran.stderr.contains("git clone --mirror"), "{ran}");
    }
    // A folder of such a name is a folder.
    std::fs::create_dir(quick.path("-x")).unwrap();
    bundle(&quick, "-x").ok();
}

fn a_host_is_asked_only_if_it_is_listed() {
    let quick = Quick::new();
    let ran = bundle(&quick, "git+https://git.example.com/x.git#v1").exits(1);
    assert!(ran.stderr.contains("add --allow-host git.example.com"), "{ran}");
    assert!(!quick.path("out.tar").exists());
}

fn of_a_command_that_is_wrong() {
    let quick = Quick::new();
    let site = quick.site();
    let recipe = quick.recipe("hello", "1.0.0", &[("a.txt", b"a")]);
    quick.release(&recipe, &site).ok();
    for command in ["yank", "revoke"] {
        for reason in ["two\nlines", ""] {
            quick.publishing(command, &site).args(["hello@1.0.0", "--reason", reason]).exits(2).says("is one line");
        }
    }
    // A report goes where somebody meant it to.
    let out = quick.path("reports/hello.sarif");
    let check = || quick.signer().arg("check").arg(&recipe).arg("--file-root").arg(quick.path("artefacts"));
    check().args(["--format", "sarif", "--out"]).arg(&out).exits(2).says("there is no folder");
    assert!(!quick.path("reports").exists());
    check().args(["--format", "sarif", "--out", "hello.sarif"]).ok();
    assert!(quick.path("hello.sarif").exists());
    // A source is exact for a first recipe, too.
    for source in ["npm:lodash", "pypi:six", "git+https://git.example.com/x.git", "nowhere.tar", "ftp://example.com/x"]
    {
        quick.signer().args(["init", "--from", source]).exits(2);
        quick.signer().args(["try", source]).exits(2);
    }
    // What git says is on one line, without the signs of another one.
    let ran = quick.publishing("rebuild", "elsewhere").args(["--git", ".", "--log"]).arg(quick.path("site/log"));
    let ran = ran.env("GIT_CEILING_DIRECTORIES", "/").arg("--artefacts").arg(quick.path("artefacts")).exits(1);
    assert!(ran.stderr.contains("not a git repository") && !ran.stderr.contains("\\n"), "{ran}");
}

/// Somebody typed a login into an address. Terminals are recorded, and CI keeps what is written to it.
fn a_login_is_not_repeated() {
    let quick = Quick::new();
    let recipe = quick.recipe("hello", "1.0.0", &[("a.txt", b"a")]);
    let at = |scheme: &str| format!("{scheme}://user:sekret-5a@127.0.0.1:9/x");
    let (s3, https, git) = (at("s3"), at("https"), format!("{}#v1", at("git+https")));
    let said = |run: Run, code: i32| {
        let ran = run.exits(code);
        assert!(!ran.text().contains("sekret-5a") && ran.text().contains("…@"), "{ran}");
    };
    for (site, code) in [(&s3, 2), (&https, 2)] {
        said(quick.looking(&["inspect", "head"], site), code);
        said(quick.looking(&["deps", "lodash"], site), 2);
        said(quick.publishing("publish", site).arg("--resign"), code);
        said(quick.publishing("release", site).args(["--key", "demo:release"]).arg(&recipe), code);
    }
    said(bundle(&quick, &git), 2);
    said(bundle(&quick, &at("git+ssh")), 2);
    said(quick.signer().arg("check").arg(&recipe).args(["--allow-host", &https]), 2);
    said(quick.publishing("publish", &quick.site()).args(["--resign", "--public", &https]), 1);
    // What would stand in a recipe, which is signed, is not even asked for.
    for source in [&https, &git, &at("oci"), &at("git+ssh"), &at("ftp")] {
        for command in ["init", "try"] {
            let run = quick.signer().arg(command);
            let run = if command == "init" { run.arg("--from") } else { run };
            let ran = run.arg(source).args(["--allow-host", "127.0.0.1:9"]).exits(2).says("--registry-auth");
            assert!(!ran.text().contains("sekret-5a"), "{ran}");
        }
    }
    let kept = Run::new("grep").args(["-rl", "sekret-5a"]).arg(quick.path("")).run();
    assert_eq!(kept.stdout, "");
}

/// `servers/x.yml` lies where recipes lie, and is none.
fn a_recipe_of_another_ending_is_seen() {
    let quick = Quick::new();
    let recipe = quick.recipe("hello", "1.0.0", &[("a.txt", b"a")]);
    let other = quick.path("servers/other.yml");
    std::fs::copy(&recipe, &other).unwrap();
    quick.signer().arg("check").arg(&other).exits(1).says("must be called hello.yaml, not other.yml");
    let check = || quick.signer().arg("check").arg(&recipe).arg("--file-root").arg(quick.path("artefacts"));
    let ran = check().args(["--staging", "staging"]).ok().says("[recipe-overlooked]");
    assert!(ran.stdout.contains("call it other.yaml, or remove it"), "{ran}");
    // It was seen when it was checked; the folder that is signed has only the recipe.
    let publish = quick.publishing("publish", &quick.site()).args(["--staging", "staging", "--no-policy"]);
    publish.args(["--key", "demo:release"]).ok();
    std::fs::remove_file(other).unwrap();
    assert!(!check().ok().text().contains("recipe-overlooked"));
}

/// `2>&1 | head`: what it does is done to the end, although nobody reads what it says.
fn nobody_hears() {
    let quick = Quick::new();
    let site = quick.site();
    let recipe = quick.recipe("hello", "1.0.0", &[("a.txt", b"a")]);
    // A pipe whose reader has ended.
    let deaf = "exec 3> >(:); wait $!; exec \"$@\" >&3 2>&3";
    let release = ["release", "--site", &site, "--head-key", "demo:head", "--key", "demo:release"];
    Run::new(mcpfs_tests::scratch::need("bash", "bash"))
        .args(["-c", deaf, "bash"])
        .arg(mcpfs_tests::binaries::bin("mcpfs-signer"))
        .args(release)
        .arg("--trust")
        .arg(quick.trust())
        .arg("--file-root")
        .arg(quick.path("artefacts"))
        .arg(recipe)
        .env("MCPFS_SIGNER_STATE", quick.path("state"))
        .ok();
    assert_eq!(quick.verify(&site).code, 0);
    assert!(quick.path("site/index.html").exists(), "also what comes last");
    // And what is not there is told as it is.
    quick.looking(&["inspect", "hello"], "elsewhere").exits(1).says("holds no published site");
    quick.looking(&["inspect", "head"], "s3:/bucket").exits(2).says("is not a site");
}
