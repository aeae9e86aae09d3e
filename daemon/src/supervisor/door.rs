//! What a worker asks, one question after the other, and what it is answered.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::child::Worker;
use super::keep::{Ended, Supervisor, nonsense, outage};
use super::readers::Question;
use super::wire::{self, Message};
use super::{SupervisorError, room};

impl Supervisor {
    /// Answers one question.
    pub(super) fn at_the_door(&mut self, worker: &mut Worker) -> Result<Option<Ended>, SupervisorError> {
        let [_, _, door] = worker.descriptors();
        let (question, with) = match wire::receive(door) {
            Ok(question) => question,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(self.ended())),
            Err(error) => return Ok(Some(nonsense(worker, &error.to_string()))),
        };
        let answered = match (question, with.as_slice()) {
            (Message::Mount, []) => {
                self.mount()?;
                worker.seated = true;
                let session = self.session.as_ref().ok_or(Errno::NODEV);
                session.and_then(|session| {
                    let (table, opens) = self.backings.shared().map_err(|_| Errno::IO)?;
                    let (fuse, _) = session.descriptors();
                    let message = Message::Mounted {
                        init: session.init().to_vec(),
                        passthrough: session.asked_for_passthrough(),
                    };
                    worker.answer(&message, &[fuse, table.as_fd(), opens.as_fd()]).map_err(|_| Errno::IO)
                })
            }
            (Message::Init(reply), []) => match self.session.as_mut() {
                Some(session) => match session.answer_init(reply) {
                    Err(Errno::PROTO) => {
                        return Err(outage("the worker and the kernel agreed on other things before".to_owned()));
                    }
                    answered => answered.and_then(|()| worker.done()),
                },
                None => Err(Errno::NODEV),
            },
            (Message::Ground(ground), []) => match self.session.as_mut() {
                Some(session) => match session.stands_on(ground) {
                    Err(Errno::PROTO) => {
                        return Err(outage(
                            "what the kernel keeps of this mount is not what the worker found: another state.db, or \
                             another way to read the cache"
                                .to_owned(),
                        ));
                    }
                    stands => stands.and_then(|now| worker.answer(&Message::Ground(now), &[]).map_err(|_| Errno::IO)),
                },
                None => Err(Errno::NODEV),
            },
            (Message::Back { ino }, [file]) => self.session.as_ref().ok_or(Errno::NODEV).and_then(|session| {
                let record = self.backings.open(session.descriptors().0, ino, file)?;
                let message = Message::Backed { id: record.id, cell: record.cell };
                worker.answer(&message, &[]).map_err(|_| Errno::IO)
            }),
            (Message::Unback { ino }, []) => self.session.as_ref().ok_or(Errno::NODEV).and_then(|session| {
                self.backings.close(session.descriptors().0, ino)?;
                worker.done()
            }),
            (Message::Again { ino }, []) => self
                .backings
                .again(ino)
                .and_then(|file| worker.answer(&Message::Opened, &[file.as_fd()]).map_err(|_| Errno::IO)),
            (Message::Configuration, []) => {
                let offered = self.settings.charge.offer();
                self.service.keep_charge(self.settings.charge.to_keep());
                offered
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
                    .and_then(|memory| worker.answer(&Message::Opened, &[memory.as_fd()]).map_err(|_| Errno::IO))
            }
            (Message::Secret(secret), []) => room::secret(&self.settings, secret)
                .and_then(|file| worker.answer(&Message::Opened, &[file.as_fd()]).map_err(|_| Errno::IO)),
            (Message::Credential { mark, env, reference }, [connection, reply]) => {
                let question = Question { mark, env, reference: &reference };
                let started = self.readers.start(&self.settings, &question, connection, reply);
                let started = started.and_then(|()| worker.done());
                // Nobody knows what they are.
                let ended = refusal(worker, started);
                wire::put_away(with);
                return Ok(ended);
            }
            (Message::Executable { pid }, []) => {
                room::executable(pid).and_then(|path| worker.answer(&Message::Path(path), &[]).map_err(|_| Errno::IO))
            }
            (other, _) => {
                let ended = nonsense(worker, &format!("{other:?} with {} descriptors", with.len()));
                wire::put_away(with);
                return Ok(Some(ended));
            }
        };
        if matches!(answered, Err(Errno::PERM)) {
            wire::put_away(with);
        }
        Ok(refusal(worker, answered))
    }
}

/// Says no where there is no other answer.
fn refusal(worker: &Worker, answered: Result<(), Errno>) -> Option<Ended> {
    let Err(errno) = answered else { return None };
    match worker.answer(&Message::No(errno.raw_os_error()), &[]) {
        // It asks one thing after another and hears no answer.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Some(nonsense(worker, "questions whose answers it does not hear"))
        }
        Err(error) => {
            tracing::debug!(%error, "the worker does not hear an answer");
            None
        }
        Ok(()) => None,
    }
}
