//! A port that can be closed and opened again without being lost.
//!
//! A second socket stays bound to the address without listening. While the port is closed it keeps
//! the number from others, and the kernel refuses connections to it. Linux lets both sockets hold
//! the address since both set `SO_REUSEADDR` and at most one listens.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::error::SimError;

const BACKLOG: u32 = 1024;

#[derive(Debug)]
pub(crate) struct Gate {
    what: &'static str,
    addr: SocketAddr,
    runtime: Handle,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    reservation: Option<TcpSocket>,
    listener: Option<TcpListener>,
    /// Cancelled when the port closes: the connections accepted since it was opened end with it.
    open: CancellationToken,
    acceptor: Option<Waker>,
}

impl Gate {
    /// Binds and opens. Must be called inside a runtime, which later openings use again.
    pub(crate) fn bind(what: &'static str, wanted: SocketAddr) -> Result<Self, SimError> {
        let refuse = |source| SimError::Listen { what, addr: wanted, source };
        let reservation = bound_socket(wanted).map_err(refuse)?;
        let addr = reservation.local_addr().map_err(refuse)?;
        let listener = listen(addr).map_err(refuse)?;
        Ok(Self {
            what,
            addr,
            runtime: Handle::current(),
            state: Mutex::new(State {
                reservation: Some(reservation),
                listener: Some(listener),
                open: CancellationToken::new(),
                acceptor: None,
            }),
        })
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().listener.is_some()
    }

    /// Refuses connections from now on and ends the open ones.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        if state.listener.take().is_some() {
            state.open.cancel();
        }
    }

    /// Takes connections again. Does nothing when it is open, or given up for good.
    pub(crate) fn open(&self) -> Result<(), SimError> {
        let mut state = self.state.lock();
        if state.listener.is_some() || state.reservation.is_none() {
            return Ok(());
        }
        let listener = {
            let _runtime = self.runtime.enter();
            listen(self.addr).map_err(|source| SimError::Listen {
                what: self.what,
                addr: self.addr,
                source,
            })?
        };
        state.listener = Some(listener);
        state.open = CancellationToken::new();
        if let Some(acceptor) = state.acceptor.take() {
            acceptor.wake();
        }
        Ok(())
    }

    /// Closes for good and lets the port go.
    pub(crate) fn give_up(&self) {
        self.close();
        self.state.lock().reservation = None;
    }

    /// The next connection, with the token that is cancelled when the port closes.
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(TcpStream, CancellationToken)>> {
        let mut state = self.state.lock();
        state.acceptor = Some(cx.waker().clone());
        let Some(listener) = &state.listener else { return Poll::Pending };
        listener.poll_accept(cx).map_ok(|(stream, _)| (stream, state.open.clone()))
    }
}

fn bound_socket(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    bound_socket(addr)?.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::Ipv4Addr;

    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_comes_back_with_its_number() {
        let gate = Gate::bind("max", any_port()).expect("a free port");
        for _ in 0..3 {
            let client = TcpStream::connect(gate.addr()).await.expect("open");
            let (_server, open) = std::future::poll_fn(|cx| gate.poll_accept(cx)).await.expect("accepted");
            gate.close();
            assert!(open.is_cancelled());
            assert!(!gate.is_open());
            let refused = TcpStream::connect(gate.addr()).await.expect_err("closed");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            gate.open().expect("opens again");
            drop(client);
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_still_taken() {
        let gate = Gate::bind("max", any_port()).expect("a free port");
        gate.close();
        let thief = TcpSocket::new_v4().expect("a socket");
        let taken = thief.bind(gate.addr()).expect_err("reserved");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let gate = Gate::bind("max", any_port()).expect("a free port");
        let error = Gate::bind("ollama", gate.addr()).expect_err("taken");
        let text = error.to_string();
        assert!(text.contains(&gate.addr().to_string()) && text.contains("ollama"), "{text}");
    }

    #[tokio::test]
    async fn a_port_given_up_is_free_and_stays_closed() {
        let gate = Gate::bind("max", any_port()).expect("a free port");
        gate.give_up();
        gate.open().expect("nothing to do");
        assert!(!gate.is_open());
        drop(TcpListener::bind(gate.addr()).await.expect("free"));
    }
}
