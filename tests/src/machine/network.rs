//! Between two loopbacks: a machine's network has nothing but its own.
//!
//! A socket belongs to the network namespace that it was made in, whoever uses it later. So a thread
//! goes into the machine's to make one, and ends.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::Machine;
use crate::accepting::Accepting;

impl Machine {
    /// Lets programs in the machine reach what listens on `port` of this loopback, under the same address.
    pub fn reaches(&self, port: u16) -> Accepting {
        let listener = self.in_its_network(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
        Accepting::on(listener.expect("the machine uses the port itself"), move |client| {
            // Who is not there is refused: the connection ends.
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
            let (Ok(answers), Ok(back)) = (server.try_clone(), client.try_clone()) else { return };
            let answering = std::thread::spawn(move || carry(answers, back));
            carry(client, server);
            drop(answering.join());
        })
    }

    /// Hands the connections to a new port of the machine's loopback to `serve`.
    pub fn serves(&self, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Accepting {
        let listener = self.in_its_network(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        Accepting::on(listener.expect("the machine has a loopback"), serve)
    }

    /// A connection to a port of the machine's loopback.
    ///
    /// # Errors
    /// If nothing listens there.
    pub fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.in_its_network(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
    }

    fn in_its_network<T: Send>(&self, make: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init)).expect("the machine runs");
        let made = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).expect("root may join a network");
                make()
            });
            inside.join()
        });
        made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Moves one direction to its end, and says that it ended.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    // Either side may hang up at any time.
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
    drop(from.shutdown(Shutdown::Read));
}
