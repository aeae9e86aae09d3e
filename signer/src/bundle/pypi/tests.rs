#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::lock::Lock;
use super::*;

fn project() -> Project {
    Project::parse("Main.Server==1.0").unwrap()
}

fn read(text: &str) -> Result<Lock, String> {
    Lock::read(text, &project()).map_err(|error| error.to_string())
}

fn hash(seed: char) -> String {
    seed.to_string().repeat(64)
}

#[test]
fn a_lock_is_written_in_one_way() {
    let text = format!(
        "# made by hand\nMain_Server[cli]==1.0 \\\n    --hash=sha256:{b} \\\n    # a comment between\n    \
         --hash=sha256:{a}\n\nA==2.0 --hash=sha256:{a} # via main\n",
        a = hash('a'),
        b = hash('b')
    );
    let lock = read(&text).unwrap();
    let expected = format!(
        "a==2.0 \\\n    --hash=sha256:{a}\nmain-server==1.0 \\\n    --hash=sha256:{a} \\\n    --hash=sha256:{b}\n",
        a = hash('a'),
        b = hash('b')
    );
    assert_eq!(lock.text(), expected);
    assert_eq!(read(&expected).unwrap(), lock);
}

#[test]
fn locks_that_lead_elsewhere_are_refused() {
    let fine = format!("main-server==1.0 --hash=sha256:{}\n", hash('a'));
    assert!(read(&fine).is_ok());
    for (line, says) in [
        ("--index-url https://index.example.com/simple", "is an option"),
        ("--extra-index-url=https://index.example.com/simple", "is an option"),
        ("-r other.txt", "is an option"),
        ("-e .", "is an option"),
        ("--find-links /tmp", "is an option"),
        ("./x-1.0-py3-none-any.whl --hash=sha256:aa", "not NAME==VERSION"),
        ("x @ https://example.com/x-1.0-py3-none-any.whl", "not NAME==VERSION"),
        ("git+https://git.example.com/x", "not NAME==VERSION"),
        ("x>=1.0", "not NAME==VERSION"),
        ("x==1.*", "not NAME==VERSION"),
        ("x==1.0", "has no hash"),
        ("x==1.0 --hash=md5:00", "is not --hash=sha256"),
        ("x==1.0 --global-option=y", "is not --hash=sha256"),
        ("x==1.0 ; python_version < '3.12' --hash=sha256:aa", "has a marker"),
    ] {
        let error = read(&format!("{fine}{line}\n")).unwrap_err();
        assert!(error.contains(says), "{line}: {error}");
    }
    let twice = format!("{fine}Main.Server==1.0 --hash=sha256:{}\n", hash('b'));
    assert!(read(&twice).unwrap_err().contains("a second time"));
    let other = format!("main-server==1.1 --hash=sha256:{}\n", hash('a'));
    assert!(read(&other).unwrap_err().contains("holds Main.Server==1.1, not Main.Server==1.0"));
    assert!(read("").unwrap_err().contains("does not hold"));
}

#[test]
fn names_have_one_spelling() {
    for (name, expected) in [("A_b.C--d", "a-b-c-d"), ("typing_extensions", "typing-extensions"), ("six", "six")] {
        assert_eq!(normal(name), expected);
    }
}
