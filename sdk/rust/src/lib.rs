//! Client of a ron-node's mailbox.
//!
//! [`Client`] sends, receives and settles, over OAP/1 (`docs/OAP.md`) or HTTP: cheap to clone, for any number of
//! callers at once, reconnecting. [`Consumer`] hands out messages and keeps their leases while they are worked on.
//! [`Connection`] is one OAP/1 connection without a task of its own, for who wants to pipeline by hand.
//!
//! Delivery is at least once: a handler may see a message again, with the same `msg_id`. Sends are exactly once
//! within the topic's window for keys if each message has an idempotency key, its own or one that the client makes
//! ([`Builder::make_keys`]).
//!
//! ```no_run
//! use ron_client::{Client, Delivery, Message, Nack};
//!
//! # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("127.0.0.1:9411", token).await?; // or Client::http("http://127.0.0.1:9410", token)?
//!
//! let order = Message::new(r#"{"order":42}"#).content_type("application/json").key("order-42");
//! let sent = client.send("orders", order).await?;
//! println!("{} is on disk", sent.msg_id);
//!
//! let consumer = client.consumer("orders").max_in_flight(64).start()?;
//! let stopper = consumer.stopper();
//! tokio::spawn(async move {
//!     let _ = tokio::signal::ctrl_c().await;
//!     stopper.stop();
//! });
//! let handler = |delivery: Delivery| async move {
//!     match std::str::from_utf8(&delivery.payload) {
//!         Ok(text) => println!("{text}"),
//!         Err(_) => return Err(Nack::reject("not text")), // to the dead letters, at once
//!     }
//!     Ok(()) // acked
//! };
//! consumer.run(8, handler).await?;
//! # Ok(())
//! # }
//! ```

mod backoff;
mod call;
mod client;
mod connection;
mod consumer;
mod entropy;
mod error;
mod frames;
mod message;
mod over_http;
mod pipeline;
mod put;
mod repeat;
mod secret;
mod stream;
mod tls;
mod window;

pub use client::{Builder, Client};
pub use connection::Connection;
pub use consumer::{Consumer, ConsumerBuilder, Held, Stopper, Worked};
pub use error::{Error, Refused};
pub use frames::Answer;
pub use message::{Delivery, Durability, Message, Nack, Sent, Want};
pub use ron_core::ids::{ContentHash, MessageId};
pub use ron_core::oap;
pub use ron_core::receipt::Receipt;
pub use tls::Tls;
