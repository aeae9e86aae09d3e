//! How the registry is asked: no more than needed, no sooner than wished, and nobody else.

use mcpfs_tests::forge;
use mcpfs_tests::host::{Host, Reads};
use mcpfs_tests::mount::Mount;
use mcpfs_tests::registry::Registry;
use mcpfs_tests::site::{Fault, Site};
use mcpfs_tests::suite::{Attack, Suite};

use crate::boundary::NETWORK;
use crate::world::{World, errno};

pub(crate) fn register(suite: &mut Suite) {
    suite.plain("network::an_unchanged_head_is_not_sent_again", an_unchanged_head_is_not_sent_again);
    suite.plain("network::a_server_that_wants_to_be_left_alone", a_server_that_wants_to_be_left_alone);
    suite.mounted("network::storms_end_with_the_site", storms_end_with_the_site);
    suite.attack(
        Attack::new(
            NETWORK,
            "network::redirects_that_lead_astray",
            "redirects to another name, to another port, and to themselves",
            &["Unreachable", "not followed"],
        ),
        redirects_that_lead_astray,
    );
}

/// Requests for `path`, by their status.
fn statuses(site: &Site, path: &str) -> Vec<u16> {
    let requests = site.requests();
    requests.iter().filter(|request| request.path == path).map(|request| request.status).collect()
}

fn an_unchanged_head_is_not_sent_again() {
    let world = World::new(Reads::Cached);
    let settled = || {
        let head = std::fs::File::options().append(true).open(world.file("head.json")).unwrap();
        head.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).unwrap();
    };
    settled();
    let _mount = Mount::start(&world.host);
    for _ in 0..3 {
        world.host.refresh().says("nothing new");
    }
    let seen = statuses(&world.site, "/head.json");
    assert!(seen.len() >= 4 && seen[0] == 200 && seen[1..].iter().all(|status| *status == 304), "{seen:?}");
    // A new one is seen at once.
    let number =
        |text: &str| text.split([' ', ':']).nth(1).and_then(|number| number.parse::<u64>().ok()).expect("head N");
    let before = number(&world.host.refresh().stdout);
    // Several in one second, of one size: to nginx they have one tag.
    for head in before..before + 4 {
        forge::next_head(&world.copy.path(), &world.registry);
        let ran = world.host.refresh().says(&format!("head {}: new, it was {head}", head + 1));
        assert_eq!(statuses(&world.site, "/head.json").last(), Some(&200), "{ran}");
    }
    settled();
    for _ in 0..2 {
        world.host.refresh().says("nothing new");
    }
    assert_eq!(statuses(&world.site, "/head.json").last(), Some(&304));
}

fn a_server_that_wants_to_be_left_alone() {
    let registry = Registry::shared();
    let lines = "    location = /head.json { add_header Retry-After 3600 always; return 503; }\n";
    let site = Site::serve_by(&registry.site(), lines);
    let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
    let _mount = Mount::start(&host);
    for _ in 0..3 {
        host.refresh_fails("Unreachable").says("left alone");
    }
    assert_eq!(statuses(&site, "/head.json"), [503], "asked once and then left alone");
}

/// Many readers meet a server that fails for a while: it is not asked more because of that.
fn storms_end_with_the_site(reads: Reads) {
    let mut world = World::new(reads);
    let _mount = Mount::start(&world.host);
    let tree = world.host.at("files/1.0.0/tree");
    assert_eq!(std::fs::read_dir(tree.join("many")).unwrap().count(), 300);
    for status in [429, 503] {
        world.site.restart(&[Fault::Status("^/objects/", status)]);
        let before = world.site.requests().len();
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| assert_eq!(errno(std::fs::read(tree.join("large"))), libc::EHOSTUNREACH));
            }
        });
        let mut asked: Vec<_> =
            world.site.requests().split_off(before).into_iter().map(|request| request.path).collect();
        asked.retain(|path| path.starts_with("/objects/"));
        let all = asked.len();
        asked.sort();
        asked.dedup();
        // 32 readers by themselves would be three tries each for every chunk of the file.
        assert!(all < 32 * asked.len(), "{all} requests for {} objects", asked.len());
    }
    world.site.restart(&[]);
    assert!(std::fs::read(tree.join("large")).unwrap() == std::fs::read(world.source("files/large")).unwrap());
}

fn redirects_that_lead_astray() {
    let registry = Registry::shared();
    let elsewhere = Site::serve(&registry.site());
    // The same machine by another name, and another port of the same name.
    let other_name = elsewhere.url().replace("127.0.0.1", "localhost");
    for (to, said) in [(other_name, "localhost"), (elsewhere.url(), "127.0.0.1"), ("/".to_owned(), "redirected")] {
        let lines = format!("    location = /head.json {{ return 302 {to}head.json; }}\n");
        let site = Site::serve_by(&registry.site(), &lines);
        let host = Host::new(&registry.trust(), &site.url(), Reads::Cached);
        let _mount = Mount::start(&host);
        host.refresh_fails("Unreachable").says("not followed").says(said);
        let asked = statuses(&site, "/head.json").len();
        // One that leads to itself is followed four times for each of the two looks, the first of which is the daemon's own.
        assert!(asked <= 10, "{to}: {asked} requests");
    }
    assert!(elsewhere.requests().is_empty(), "nobody was led there");
}
