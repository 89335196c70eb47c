//! Server half of the client protocol: sockets, framing, deadlines and limits.
//!
//! The policy above is a [`ClientService`]; this side calls it with opaque
//! bodies and puts its answers on the wire. What a status code does to a stock
//! client is documented on [`Answer`].

mod accept;
mod body;
#[doc(hidden)]
pub mod fuzz;
mod gate;
mod head;
mod hold;
mod http;
mod limits;
mod pace;
mod proxy;
mod pushes;
mod router;
mod service;
mod socket;
mod web;

pub use accept::{Accepted, ConnHandler, Serve, Stop, serve};
pub use gate::{Count, Gate, WAITS};
pub use limits::{AcceptLimits, HttpLimits, Metrics};
pub use pace::Pacer;
pub use pushes::{Pusher, Pushes, ReaderGone, pushes};
pub use router::{ClientEndpoint, Endpoint};
pub use service::{
    Answer, Charge, ClientService, End, Hold, Oversize, Proof, PublicFile, Push, ReaderAnswer,
    ReaderSession, Request, RequestHead, Transport,
};
pub use web::{PeerInfo, WebHandler};
