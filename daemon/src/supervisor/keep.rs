//! One worker after the other: what it asks, what it says, and what follows its end.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::backings::Backings;
use super::child::Worker;
use super::deaths::{Deaths, Life};
use super::readers::Readers;
use super::service::Service;
use super::session::Session;
use super::signals::wait;
use super::standby::Standby;
use super::wire::{self, Message};
use super::{End, Kept, Settings, SupervisorError, failed, room};
use crate::mount::Mountpoint;

/// How long there may be no worker that serves.
const OUTAGE: Duration = Duration::from_secs(10);
/// How long a worker that serves may say nothing: it says so every second.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a first worker may say nothing before it serves. It begins to speak when it has opened
/// what it needs, which may have to be mended first.
const FIRST: Duration = Duration::from_secs(60);
/// How long it may take from its first word until it serves; a look at the site is part of it.
const PREPARES: Duration = Duration::from_secs(180);
/// How long one that stood by may say nothing once it is its turn: it has little left to do, and a fresh
/// one needs time as well.
const STIRS: Duration = Duration::from_secs(3);

/// What ended a worker's time.
pub(super) enum Ended {
    /// This process was asked to end, or to make room for another one.
    Asked(End),
    /// It died.
    Died,
    /// It was silent, or talks nonsense, and is to be killed.
    Condemned,
    /// It ended because the mount is gone.
    Unmounted,
}

pub(super) struct Supervisor {
    pub(super) settings: Settings,
    pub(super) service: Service,
    listener: UnixListener,
    pub(super) backings: Backings,
    /// Where to mount, as long as nothing is mounted.
    point: Option<Mountpoint>,
    pub(super) session: Option<Session>,
    /// Workers so far, before there is a session that counts them.
    started: u64,
    /// When a worker was last seen to serve; none has yet in this process.
    served: Option<Instant>,
    deaths: Deaths,
    announced: bool,
    /// The next worker, if there is one already.
    standby: Standby,
    /// What reads credentials.
    pub(super) readers: Readers,
}

impl Supervisor {
    pub(super) fn new(settings: Settings) -> Result<Self, SupervisorError> {
        let service = Service::new(settings.keep);
        let stored = service.stored();
        let mut standby = Standby::default();
        if stored.as_ref().is_some_and(|stored| stored.session.is_some()) {
            room::prepare(&settings)?;
            // Everybody waits for it, and what it does first needs nothing of what is looked at here.
            standby.begin(&settings.worker, &settings.charge);
        }
        let kept = Kept::by(&service, stored, &settings);
        if settings.charge.goes_on() {
            tracing::info!(
                "the configuration that was in force stays; what is on the disk counts from a reload or a restart"
            );
        }
        let (session, backings, point) = match kept.session {
            Some((session, backings)) => {
                tracing::info!(at = %settings.at.display(), "taking over the mount that systemd kept");
                (Some(session), backings, None)
            }
            None => {
                let point = Mountpoint::prepare(&settings.at)?;
                for own in &settings.outside {
                    point.leaves_out(own)?;
                }
                room::prepare(&settings)?;
                let backings = Backings::new(&settings.cache, settings.user.uid, None)
                    .map_err(failed(format!("looking at the cache {} failed", settings.cache.display())))?;
                (None, backings, Some(point))
            }
        };
        let anew = kept.control.is_none();
        let listener = match kept.control {
            Some(listener) => listener,
            None => listen(&settings)?,
        };
        let supervisor = Self {
            service,
            listener,
            backings,
            point,
            served: session.as_ref().map(|_| Instant::now()),
            session,
            started: 0,
            deaths: Deaths::default(),
            announced: false,
            standby,
            readers: Readers::default(),
            settings,
        };
        if let Some(session) = &supervisor.session {
            match anew {
                true => {
                    supervisor.service.forget();
                    supervisor.store(session);
                }
                false => supervisor.service.keep_charge(supervisor.settings.charge.to_keep()),
            }
            session.note_end(false).map_err(failed("noting that this process serves failed"))?;
        }
        Ok(supervisor)
    }

    /// One worker after the other.
    pub(super) fn keep_serving(&mut self) -> Result<End, SupervisorError> {
        if self.session.is_some() {
            // The predecessor's worker died with it; what it had taken must not be lost.
            self.resend()?;
        }
        loop {
            let generation = match &mut self.session {
                Some(session) => session.next_generation().map_err(failed("noting the worker's number failed"))?,
                None => {
                    self.started += 1;
                    self.started
                }
            };
            self.mend_socket()?;
            let mut worker = self
                .standby
                .next(&self.settings.worker, &self.settings.charge, generation, self.listener.as_fd())
                .map_err(failed("starting the worker failed"))?;
            tracing::debug!(pid = worker.id(), generation, stood_by = worker.stood_by, "the worker starts");
            let ended = self.watch(&mut worker);
            let service = &mut self.service;
            let mut kill =
                |worker: &mut Worker| worker.kill(|| service.alive()).map_err(failed("the worker cannot be ended"));
            match ended {
                Ok(Ended::Asked(end)) => return self.stop(&mut worker, end),
                Ok(Ended::Unmounted) => {
                    tracing::warn!("somebody unmounted it");
                    self.standby.end(|| self.service.alive());
                    worker.join(|| self.service.alive()).map_err(failed("the worker cannot be ended"))?;
                    self.service.forget();
                    return Ok(End::Over);
                }
                Ok(ended @ (Ended::Died | Ended::Condemned)) => {
                    let status = kill(&mut worker)?;
                    self.after_death(&worker, status, matches!(ended, Ended::Died))?;
                }
                Err(error) => {
                    kill(&mut worker)?;
                    return Err(error);
                }
            }
        }
    }

    /// Serves one worker's needs until its time is over.
    fn watch(&mut self, worker: &mut Worker) -> Result<Ended, SupervisorError> {
        let mut looked = Instant::now();
        loop {
            self.service.alive();
            let reading = self.readers.reap();
            let now = Instant::now();
            worker.excuse(now - looked, &mut self.served);
            let left = self.deadline(worker).saturating_duration_since(now);
            let sleep = [self.service.period(), reading].into_iter().flatten().fold(left, Duration::min);
            let [end, line, door] = worker.descriptors();
            // Without one, the worker's own stand for it: they are looked at anyway.
            let [other_end, other_line] = self.standby.descriptors().unwrap_or([end, line]);
            let [reload, stop, relieve] =
                [&self.settings.signals.reload, &self.settings.signals.end, &self.settings.signals.relieve]
                    .map(AsFd::as_fd);
            let asked = [reload, stop, relieve, door, line, end, other_end, other_line];
            let [reload, stop, relieve, door, line, end, other_end, other_line] =
                wait(asked, sleep).map_err(failed("waiting for the worker failed"))?;
            worker.excuse(now.elapsed().saturating_sub(sleep), &mut self.served);
            looked = Instant::now();
            if stop || relieve {
                // Nobody keeps the mount of whoever was not started to leave it.
                let stays = relieve && !stop && self.service.keeps;
                return Ok(Ended::Asked(if stays { End::Relieved } else { End::Over }));
            }
            // What it has just said is heard first.
            if left.is_zero() && !(line && worker.serves.is_some()) {
                return self.late(worker);
            }
            if other_end || other_line {
                self.standby.speaks(|| self.service.alive());
            }
            if reload {
                self.settings.signals.reload_taken();
                self.service.reloading();
                worker.tell(&Message::Reload);
            }
            // All that it has said comes before what it asks: what it was offered is judged on the line, and the
            // next offer is asked for at the door.
            if line && let Some(ended) = self.on_the_line(worker) {
                return Ok(ended);
            }
            if door
                && !line
                && let Some(ended) = self.at_the_door(worker)?
            {
                return Ok(ended);
            }
            // Last, so that what it said before it ended was heard.
            if end && !door && !line {
                return Ok(self.ended());
            }
        }
    }

    /// What comes of a worker that has said nothing until its deadline.
    fn late(&self, worker: &Worker) -> Result<Ended, SupervisorError> {
        match (worker.serves, self.served) {
            (Some(_), _) => {
                tracing::error!(pid = worker.id(), "the worker has said nothing for {SILENCE:?}; replacing it");
                Ok(Ended::Condemned)
            }
            (None, Some(served)) if served.elapsed() < OUTAGE => Ok(Ended::Condemned),
            (None, Some(_)) => Err(outage(format!("none was ready within {} s", OUTAGE.as_secs()))),
            (None, None) => Err(outage("the first was not ready in time".to_owned())),
        }
    }

    /// Why a worker has ended by itself.
    pub(super) fn ended(&self) -> Ended {
        if self.is_unmounted() { Ended::Unmounted } else { Ended::Died }
    }

    /// Until when the worker must have said something.
    fn deadline(&self, worker: &Worker) -> Instant {
        match (worker.serves, self.served) {
            (Some(_), _) => worker.heard + SILENCE,
            (None, Some(served)) if worker.stood_by && worker.first.is_none() => {
                (worker.heard + STIRS).min(served + OUTAGE)
            }
            (None, Some(served)) => served + OUTAGE,
            (None, None) => {
                worker.first.map_or(worker.heard + FIRST, |first| (worker.heard + FIRST).min(first + PREPARES))
            }
        }
    }

    fn on_the_line(&mut self, worker: &mut Worker) -> Option<Ended> {
        let [_, line, _] = worker.descriptors();
        match wire::receive(line) {
            Ok((message, with)) => {
                if !with.is_empty() {
                    wire::put_away(with);
                    return Some(nonsense(worker, "descriptors on the line"));
                }
                if !worker.speaks() {
                    return Some(nonsense(worker, "more messages than anybody could need"));
                }
                match message {
                    Message::Beat if worker.serves.is_some() => self.served = Some(worker.heard),
                    Message::Beat => {}
                    Message::Ready(text)
                        if worker.serves.is_none() && self.session.as_ref().is_some_and(Session::is_agreed) =>
                    {
                        worker.serves = Some(worker.heard);
                        self.served = Some(worker.heard);
                        self.announce(&text);
                        self.standby.start(&self.settings.worker, &self.settings.charge);
                    }
                    Message::Status(text) => self.service.status(&text),
                    Message::Reloaded => self.service.ready("reloaded"),
                    Message::Judged { config, trust } if self.settings.charge.judged(config, trust) => {
                        // It was handed what may no longer be in force.
                        self.standby.end(|| self.service.alive());
                        if worker.serves.is_some() {
                            self.standby.start(&self.settings.worker, &self.settings.charge);
                        }
                        self.service.keep_charge(self.settings.charge.to_keep());
                    }
                    other => return Some(nonsense(worker, &format!("{other:?}"))),
                }
                None
            }
            // It has ended, or is about to: its process tells.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(self.ended()),
            Err(error) => Some(nonsense(worker, &error.to_string())),
        }
    }

    /// Listens anew if a worker shut the control socket down, which nobody can take back.
    fn mend_socket(&mut self) -> Result<(), SupervisorError> {
        let mut asked = [PollFd::new(&self.listener, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let shut = poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().contains(PollFlags::RDHUP);
        if !shut {
            return Ok(());
        }
        tracing::error!("a worker shut the control socket down; making another");
        self.listener = listen(&self.settings)?;
        self.service.forget();
        if let Some(session) = &self.session {
            self.store(session);
        }
        Ok(())
    }

    /// Gives systemd everything that a session is made of.
    fn store(&self, session: &Session) {
        let (fuse, record) = session.descriptors();
        let (table, opens) = self.backings.tables();
        self.service.store([self.listener.as_fd(), table, opens, record, fuse]);
        self.service.keep_charge(self.settings.charge.to_keep());
    }

    pub(super) fn mount(&mut self) -> Result<(), SupervisorError> {
        let Some(point) = self.point.take() else { return Ok(()) };
        let session = Session::mount(point, self.started)?;
        self.store(&session);
        session.note_end(false).map_err(failed("noting that this process serves failed"))?;
        self.session = Some(session);
        Ok(())
    }

    fn announce(&mut self, line: &str) {
        self.service.ready(line);
        if !self.announced {
            self.announced = true;
            // Whoever started us may be gone; the mount is there all the same.
            let mut out = io::stdout();
            drop(
                io::Write::write_all(&mut out, format!("{line}\n").as_bytes())
                    .and_then(|()| io::Write::flush(&mut out)),
            );
        }
    }

    /// Asked to end: the worker ends well, and the mount goes unless another process is to have it.
    fn stop(&mut self, worker: &mut Worker, end: End) -> Result<End, SupervisorError> {
        if let Some(Err(error)) = self.session.as_ref().map(|session| session.note_end(true)) {
            tracing::warn!(%error, "the next process will take this one's end for a crash");
        }
        self.service.stopping();
        self.standby.end(|| self.service.alive());
        if end == End::Relieved {
            self.end(worker)?;
            // A stop that came meanwhile is the last word.
            let stop = wait([self.settings.signals.end.as_fd()], Duration::ZERO).is_ok_and(|[stop]| stop);
            if !stop {
                return Ok(end);
            }
        }
        let unmounted = self.session.as_ref().map(|session| session.point().unmount()).transpose();
        if end == End::Over {
            // Unmounted and used by nobody, it ends the worker; used by somebody, it needs a word.
            self.end(worker)?;
        }
        drop(std::fs::remove_file(self.settings.rundir.join("control.sock")));
        self.service.forget();
        unmounted.map(|_| End::Over).map_err(failed(format!("unmounting {} failed", self.settings.at.display())))
    }

    /// Ends a worker for good. One that does not serve yet may be waiting for an answer of this process, and then would not
    /// hear a word: it is killed, as whoever takes its place expects anyway.
    fn end(&mut self, worker: &mut Worker) -> Result<(), SupervisorError> {
        let alive = || self.service.alive();
        let ended = if worker.serves.is_some() { worker.stop(alive) } else { worker.kill(alive) };
        ended.map(drop).map_err(failed("the worker cannot be ended"))
    }

    /// What comes after a worker's death: an end, or everything that its successor needs. `by_others` says
    /// that this process did not kill it.
    fn after_death(&mut self, worker: &Worker, status: ExitStatus, by_others: bool) -> Result<(), SupervisorError> {
        let Some(served) = self.served else {
            return Err(SupervisorError::NeverServed { status });
        };
        if self.settings.charge.withdraw() {
            self.standby.end(|| self.service.alive());
        }
        if worker.stood_by && worker.serves.is_none() {
            // It may have been too old for what has become of this host; a fresh one is not.
            tracing::warn!(pid = worker.id(), %status, "the worker that stood by does not serve; starting another");
            return self.resend();
        }
        tracing::error!(pid = worker.id(), %status, "the worker died; another takes over the mount");
        self.deaths.note(Life {
            seated: worker.seated,
            served: worker.serves.map(|since| since.elapsed()),
            killed: status.signal() == Some(libc::SIGKILL),
            by_others,
        });
        if let Some(deaths) = self.deaths.too_many() {
            return Err(outage(format!("{deaths} died one after the other, the last with {status}")));
        }
        if worker.serves.is_some() {
            self.served = Some(Instant::now());
        } else {
            // It never served, so the outage goes on.
            let (lasts, most) = (served.elapsed(), OUTAGE.as_secs());
            if lasts >= OUTAGE {
                return Err(outage(format!("none was ready within {most} s, the last ended with {status}")));
            }
            let since = lasts.as_secs();
            self.service.status(&format!(
                "no worker serves for {since} s, the last ended with {status}; giving up after {most} s"
            ));
            std::thread::sleep(self.deaths.pause());
        }
        self.resend()
    }

    fn resend(&mut self) -> Result<(), SupervisorError> {
        let Some(session) = &self.session else { return Ok(()) };
        match session.resend() {
            Ok(()) => {}
            Err(_) if self.is_unmounted() => return Ok(()),
            Err(error) => {
                return Err(outage(format!("this kernel cannot send again what the worker had taken ({error})")));
            }
        }
        if self.deaths.of_a_request() {
            let refused = session.refuse_pending();
            tracing::error!(refused, "what waited is answered with EIO: it may be what kills the workers");
        }
        Ok(())
    }

    /// Ends everything: whoever waits gets EIO, and the mount goes.
    pub(super) fn give_up(&mut self) {
        self.standby.end(|| self.service.alive());
        if let Some(session) = self.session.take() {
            // Some may be answered and others not where the kernel cannot resend: the abort gets those.
            drop(session.resend());
            session.refuse_pending();
            session.abort();
        }
        self.service.forget();
        drop(std::fs::remove_file(self.settings.rundir.join("control.sock")));
    }

    fn is_unmounted(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_over)
    }
}

fn listen(settings: &Settings) -> Result<UnixListener, SupervisorError> {
    crate::control::bind(&settings.rundir)
        .map_err(failed(format!("making the control socket in {} failed", settings.rundir.display())))
}

pub(super) fn outage(why: String) -> SupervisorError {
    SupervisorError::Outage { why }
}

pub(super) fn nonsense(worker: &Worker, what: &str) -> Ended {
    tracing::error!(pid = worker.id(), what, "the worker talks nonsense; replacing it");
    Ended::Condemned
}
