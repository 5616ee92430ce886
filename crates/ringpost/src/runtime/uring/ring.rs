//! The ring: what the kernel is asked to watch, and whom to wake when it answers.
//!
//! Sockets are read and written by plain system calls that do not wait. What is asked of the ring is
//! only to say when such a call is worth while: by polls that go on until they are taken back. All that
//! a round of tasks asks, and the wait for what comes next, is one system call.

#![expect(unsafe_code, reason = "what is put into the ring must outlive its stay there")]

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    os::fd::RawFd,
    rc::Rc,
    task::Waker,
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

/// Questions that fit into the ring before they have to be handed over.
const QUESTIONS: u32 = 512;

/// Answers that the kernel has room for; further ones wait with it.
const ANSWERS: u32 = 4096;

/// Stands for answers that nobody waits for.
const NOBODY: u64 = u64::MAX;

/// A direction in which a socket may be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Something is to be read, or accepted, or the peer has closed.
    Read,
    /// Something may be written, or a connection is made or has failed.
    Write,
}

/// What is known of one side of a socket.
#[derive(Default)]
struct Readiness {
    /// Whether the kernel may have something for us: try.
    is_ready: Cell<bool>,
    /// The peer has closed, or the socket has failed: there is always something to find out.
    is_final: Cell<bool>,
    /// The number of the poll that watches it.
    poll: Cell<Option<u32>>,
    waker: Cell<Option<Waker>>,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("is_ready", &self.is_ready.get())
            .field("is_final", &self.is_final.get())
            .field("poll", &self.poll.get())
            .finish_non_exhaustive()
    }
}

impl Readiness {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What one socket waits for.
#[derive(Debug, Default)]
struct Sides {
    read: Readiness,
    write: Readiness,
}

impl Sides {
    fn of(&self, side: Side) -> &Readiness {
        match side {
            Side::Read => &self.read,
            Side::Write => &self.write,
        }
    }
}

/// A poll in the kernel's hands.
#[derive(Debug)]
struct Poll {
    sides: Rc<Sides>,
    side: Side,
    /// Its socket is gone: answers that are still to come wake nobody.
    is_abandoned: bool,
}

/// Polls by number. A number is given again only after the last answer to it.
#[derive(Debug, Default)]
struct Polls {
    polls: Vec<Option<Poll>>,
    free: Vec<u32>,
}

impl Polls {
    fn add(&mut self, poll: Poll) -> u32 {
        if let Some(number) = self.free.pop() {
            self.polls[number as usize] = Some(poll);
            return number;
        }
        self.polls.push(Some(poll));
        self.polls.len() as u32 - 1
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Poll> {
        self.polls.get_mut(number as usize)?.as_mut()
    }

    fn remove(&mut self, number: u32) -> Option<Poll> {
        let poll = self.polls.get_mut(number as usize)?.take();
        if poll.is_some() {
            self.free.push(number);
        }
        poll
    }
}

/// One executor's ring.
pub(super) struct Ring {
    kernel: RefCell<IoUring>,
    polls: RefCell<Polls>,
    /// Whether the kernel says by a flag that it has answers which it gives out when it is asked.
    tells_of_work: bool,
}

impl Ring {
    /// Makes a ring for the calling thread, the only one that may use it.
    ///
    /// # Errors
    ///
    /// What `io_uring_setup(2)` says, named.
    pub(super) fn new() -> io::Result<Self> {
        Self::set_up().map_err(|error| {
            let advice = match error.raw_os_error() {
                Some(libc::EPERM | libc::ENOSYS) => {
                    "; it has to be allowed (containers: by the seccomp profile)"
                }
                Some(libc::ENOMEM) => "; raise the limit on locked memory (memlock)",
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot set up io_uring: {error}{advice}"))
        })
    }

    fn set_up() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(ANSWERS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag();
        let (ring, tells_of_work) = match builder.build(QUESTIONS) {
            Ok(ring) => (ring, true),
            // Before Linux 6.1.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (IoUring::builder().setup_cqsize(ANSWERS).build(QUESTIONS)?, false)
            }
            Err(error) => return Err(error),
        };
        Ok(Self { kernel: RefCell::new(ring), polls: RefCell::default(), tells_of_work })
    }

    /// Hands over what was asked, and waits until something is answered, `timeout` at the longest.
    /// `None` does not wait, and makes no system call that is not needed.
    ///
    /// Those that waited for what is answered are woken.
    pub(super) fn pass(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut ring = self.kernel.borrow_mut();
        let entered = match timeout {
            Some(timeout) => {
                let timeout = types::Timespec::from(timeout);
                ring.submitter()
                    .submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
                    .map(drop)
            }
            None => self.enter_if_needed(&mut ring),
        };
        match entered {
            // The time is over; a signal came; there is no room for answers until some are taken.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            entered => entered?,
        }
        self.take_answers(&mut ring);
        Ok(())
    }

    fn enter_if_needed(&self, ring: &mut IoUring) -> io::Result<()> {
        let asked = ring.submission();
        let must = !asked.is_empty() || asked.taskrun() || asked.cq_overflow();
        drop(asked);
        if must && self.tells_of_work {
            // SAFETY: no argument is given, and what is in the ring lives as `push` says.
            unsafe {
                ring.submitter().enter::<libc::sigset_t>(
                    QUESTIONS, 0, 1, // IORING_ENTER_GETEVENTS
                    None,
                )
            }?;
        } else if must {
            ring.submit()?;
        }
        Ok(())
    }

    fn take_answers(&self, ring: &mut IoUring) {
        for answer in ring.completion() {
            if answer.user_data() != NOBODY {
                self.note(&answer);
            }
        }
    }

    fn note(&self, answer: &cqueue::Entry) {
        let number = answer.user_data() as u32;
        let mut polls = self.polls.borrow_mut();
        let Some(poll) = polls.get_mut(number) else { return };
        let sides = (!poll.is_abandoned).then(|| (Rc::clone(&poll.sides), poll.side));
        let goes_on = cqueue::more(answer.flags());
        if !goes_on {
            polls.remove(number);
        }
        drop(polls);
        let Some((sides, side)) = sides else { return };
        let readiness = sides.of(side);
        if !goes_on {
            readiness.poll.set(None);
        }
        let seen = answer.result();
        let last = i32::from(libc::POLLERR | libc::POLLHUP) | libc::EPOLLRDHUP;
        if seen < 0 || seen & last != 0 {
            readiness.is_final.set(true);
        }
        readiness.is_ready.set(true);
        readiness.wake();
    }

    /// Puts a question into the ring.
    fn push(&self, question: &squeue::Entry) -> io::Result<()> {
        let mut ring = self.kernel.borrow_mut();
        loop {
            // SAFETY: polls and what ends them, the only questions there are, point to no memory.
            if unsafe { ring.submission().push(question) }.is_ok() {
                return Ok(());
            }
            ring.submit()?;
        }
    }

    /// Asks to be told, again and again, when something is to be had at one side of a descriptor.
    fn watch(&self, descriptor: RawFd, sides: &Rc<Sides>, side: Side) -> io::Result<()> {
        let number = self.polls.borrow_mut().add(Poll {
            sides: Rc::clone(sides),
            side,
            is_abandoned: false,
        });
        let mask = match side {
            Side::Read => libc::POLLIN as u32 | libc::EPOLLRDHUP as u32,
            Side::Write => libc::POLLOUT as u32,
        };
        let poll = opcode::PollAdd::new(types::Fd(descriptor), mask)
            .multi(side == Side::Read)
            .build()
            .user_data(u64::from(number));
        if let Err(error) = self.push(&poll) {
            self.polls.borrow_mut().remove(number);
            return Err(error);
        }
        sides.of(side).poll.set(Some(number));
        Ok(())
    }

    /// Takes a poll back. The kernel holds the socket until it has heard of it.
    ///
    /// Not by removal: that does nothing to a poll that has something to tell at this moment, which would hold the
    /// socket, and so the connection, for as long as the peer likes.
    fn abandon(&self, readiness: &Readiness) {
        let Some(number) = readiness.poll.take() else { return };
        if let Some(poll) = self.polls.borrow_mut().get_mut(number) {
            poll.is_abandoned = true;
        }
        let cancel = opcode::AsyncCancel::new(u64::from(number)).build().user_data(NOBODY);
        if let Err(error) = self.push(&cancel) {
            tracing::error!(%error, "cannot take a poll back");
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("polls", &self.polls.borrow().polls.len())
            .finish_non_exhaustive()
    }
}

/// When calls on one socket are worth while.
#[derive(Debug)]
pub(super) struct Interest {
    ring: Rc<Ring>,
    sides: Rc<Sides>,
}

impl Interest {
    /// For a socket of which nothing is known yet. It must be dropped before its socket is closed.
    pub(super) fn new(ring: &Rc<Ring>) -> Self {
        let sides = Rc::<Sides>::default();
        sides.read.is_ready.set(true);
        sides.write.is_ready.set(true);
        Self { ring: Rc::clone(ring), sides }
    }

    /// Whether a call may find something now.
    pub(super) fn is_ready(&self, side: Side) -> bool {
        self.sides.of(side).is_ready.get()
    }

    /// Says that a call has found nothing, or has had all there was: the kernel will say when there is
    /// more, unless there is always something to find.
    pub(super) fn exhaust(&self, side: Side) {
        let readiness = self.sides.of(side);
        readiness.is_ready.set(readiness.is_final.get());
    }

    /// Has `waker` woken when a call may find something.
    pub(super) fn wait(&self, descriptor: RawFd, side: Side, waker: &Waker) -> io::Result<()> {
        let readiness = self.sides.of(side);
        let known = readiness.waker.take().filter(|known| known.will_wake(waker));
        readiness.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
        if readiness.poll.get().is_none() {
            self.ring.watch(descriptor, &self.sides, side)?;
        }
        Ok(())
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        for side in [Side::Read, Side::Write] {
            let readiness = self.sides.of(side);
            readiness.waker.take();
            self.ring.abandon(readiness);
        }
    }
}
