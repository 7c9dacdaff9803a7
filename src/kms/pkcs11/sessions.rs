//! Sessions with a token: so many at the most, kept while they work, logged in once.

use std::{
    collections::HashMap,
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    object::ObjectHandle,
    session::{Session, SessionState, UserType},
    slot::{Limit, Slot, TokenInfo},
};

use super::{Pin, PinError, SESSIONS_MAX, TokenError, TokenName, WAIT_MAX, objects::Form};
use crate::{keys::Fingerprint, platform::Process};

/// A session, and the keys that were found through it: their handles are good as long as it is.
pub(super) struct Seat {
    pub(super) session: Session,
    pub(super) keys: HashMap<Fingerprint, (ObjectHandle, Form)>,
}

/// The sessions of one token.
pub(super) struct Sessions {
    context: Pkcs11,
    name: TokenName,
    serial: String,
    process: Process,
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    pin: Pin,
    /// Why nobody logs in until told to.
    halted: Option<PinError>,
    idle: Vec<Seat>,
    /// Sessions that there are, idle or in use.
    open: usize,
    most: usize,
}

/// A session in use: it goes back where it works, and is closed where it does not.
struct Held<'a> {
    of: &'a Sessions,
    seat: Option<Seat>,
    works: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

impl Sessions {
    /// Finds the token and logs in.
    pub(super) fn open(context: Pkcs11, name: TokenName, pin: Pin) -> Result<Self, TokenError> {
        let (_, info) = find_token(&context, &name, None)?;
        let most = match info.max_session_count() {
            Limit::Max(most) => usize::try_from(most).unwrap_or(SESSIONS_MAX).clamp(1, SESSIONS_MAX),
            _ => SESSIONS_MAX,
        };
        let state = State { pin, halted: None, idle: Vec::new(), open: 0, most };
        let (serial, process) = (info.serial_number().to_owned(), Process::current());
        let sessions = Self { context, name, serial, process, state: Mutex::new(state), freed: Condvar::new() };
        sessions.log_in_anew()?;
        Ok(sessions)
    }

    pub(super) fn serial(&self) -> &str {
        &self.serial
    }

    /// Takes another PIN, and logs in with it.
    pub(super) fn use_pin(&self, pin: Pin) -> Result<(), TokenError> {
        self.check_process()?;
        let mut state = self.lock();
        (state.pin, state.halted) = (pin, None);
        drop(state);
        self.log_in_anew()
    }

    /// The one login that somebody asked for.
    fn log_in_anew(&self) -> Result<(), TokenError> {
        let mut state = self.lock();
        let seat = self.open_seat(&mut state, Kind::Read, true)?;
        drop(state);
        drop(Held { of: self, seat: Some(seat), works: true });
        Ok(())
    }

    /// Asks on a session. What may have failed because the session was lost is asked once more, on a new one: also one that is new itself may
    /// be lost, when the login that it was opened under is.
    pub(super) fn ask<T>(&self, ask: impl Fn(&mut Seat) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let mut held = self.hold()?;
        match held.ask(&ask) {
            Err(error) if error.may_be_the_sessions() => {
                drop(held);
                self.hold_new(Kind::Read)?.ask(&ask)
            }
            answer => answer,
        }
    }

    /// Asks once, on a session that may write and is closed then.
    pub(super) fn ask_to_write<T>(&self, ask: impl Fn(&mut Seat) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let mut held = self.hold_new(Kind::Write)?;
        let answer = held.ask(&ask);
        held.works = false;
        answer
    }

    fn hold(&self) -> Result<Held<'_>, TokenError> {
        self.hold_when(|state| match state.idle.pop() {
            Some(seat) => Ok(Held { of: self, seat: Some(seat), works: false }),
            None => self.new_held(state, Kind::Read),
        })
    }

    /// A session of its own; where there may be no more, one that is idle makes room.
    fn hold_new(&self, kind: Kind) -> Result<Held<'_>, TokenError> {
        self.hold_when(|state| {
            if state.open >= state.most && state.idle.pop().is_some() {
                state.open -= 1;
            }
            self.new_held(state, kind)
        })
    }

    fn new_held(&self, state: &mut State, kind: Kind) -> Result<Held<'_>, TokenError> {
        let seat = self.open_seat(state, kind, false)?;
        Ok(Held { of: self, seat: Some(seat), works: false })
    }

    /// Waits until one is free, for [`WAIT_MAX`].
    fn hold_when<'a>(&self, take: impl Fn(&mut State) -> Result<Held<'a>, TokenError>) -> Result<Held<'a>, TokenError> {
        self.check_process()?;
        let until = Instant::now() + WAIT_MAX;
        let mut state = self.lock();
        while state.idle.is_empty() && state.open >= state.most {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TokenError::Busy);
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        take(&mut state)
    }

    /// Opens a session that is logged in. `asked` is whether somebody asked for a login just now.
    fn open_seat(&self, state: &mut State, kind: Kind, asked: bool) -> Result<Seat, TokenError> {
        if let Some(trouble) = state.halted {
            return Err(trouble.into());
        }
        // A token that was put back may be in another slot.
        let (slot, info) = find_token(&self.context, &self.name, Some(&self.serial))?;
        let session = self.open_session(slot, kind).map_err(TokenError::call("open a session"))?;
        if let Err(error) = log_in(&session, &info, &state.pin, asked) {
            if let TokenError::Pin(trouble) = error {
                state.halted = Some(trouble);
            }
            return Err(error);
        }
        state.open += 1;
        Ok(Seat { session, keys: HashMap::new() })
    }

    fn open_session(&self, slot: Slot, kind: Kind) -> Result<Session, Error> {
        match kind {
            Kind::Read => self.context.open_ro_session(slot),
            Kind::Write => self.context.open_rw_session(slot),
        }
    }

    fn check_process(&self) -> Result<(), TokenError> {
        if self.process.is_current_by_number() { Ok(()) } else { Err(TokenError::Forked) }
    }

    // A panic elsewhere while the lock was held leaves at the worst a session counted that is closed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sessions are the parent's: a child closes none.
impl Drop for Sessions {
    fn drop(&mut self) {
        if !self.process.is_current_by_number() {
            // Not locked: a thread that did not come along may hold the lock.
            let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
            mem::forget(mem::take(&mut state.idle));
        }
    }
}

impl Held<'_> {
    fn ask<T>(&mut self, ask: impl Fn(&mut Seat) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let seat = self.seat.as_mut().ok_or(TokenError::Busy)?;
        let answer = ask(seat);
        self.works = !answer.as_ref().is_err_and(TokenError::may_be_the_sessions);
        answer
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let kept = self.seat.take().filter(|_| self.works);
        // One that is not kept is closed by now, before another may take its place.
        let mut state = self.of.lock();
        match kept {
            Some(seat) => state.idle.push(seat),
            None => state.open -= 1,
        }
        drop(state);
        self.of.freed.notify_one();
    }
}

/// The token of that name, and of that serial number where it was seen before: a PIN is not given to another one.
fn find_token(context: &Pkcs11, name: &TokenName, serial: Option<&str>) -> Result<(Slot, TokenInfo), TokenError> {
    let slots = context.get_slots_with_token().map_err(TokenError::call("list its slots"))?;
    let tokens = slots.into_iter().filter_map(|slot| Some((slot, context.get_token_info(slot).ok()?)));
    let is_it =
        |info: &TokenInfo| info.token_initialized() && name.is_of(info) && serial.is_none_or(|it| it == info.serial_number());
    let mut found = tokens.filter(|(_, info)| is_it(info));
    match (found.next(), found.next()) {
        (Some(token), None) => Ok(token),
        (None, _) => Err(TokenError::NoToken(name.to_string())),
        (Some(_), Some(_)) => Err(TokenError::SeveralTokens(name.to_string())),
    }
}

/// Logs in unless another session of this process has: a login is the token's, not the session's.
fn log_in(session: &Session, info: &TokenInfo, pin: &Pin, asked: bool) -> Result<(), TokenError> {
    let state = session.get_session_info().map_err(TokenError::call("describe a session"))?.session_state();
    if !asked && matches!(state, SessionState::RoUser | SessionState::RwUser) {
        return Ok(());
    }
    if info.user_pin_locked() {
        return Err(PinError::Locked.into());
    }
    if !asked && info.user_pin_final_try() {
        return Err(PinError::LastTry.into());
    }
    match session.login(UserType::User, Some(&pin.0)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => Err(TokenError::login(error)),
    }
}
