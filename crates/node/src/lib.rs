//! The program: configuration, the one port, who may do what, the API, and the commands.
//!
//! Only this crate knows the configuration file, the port and the process. [`Node`] puts the rooms together; what they
//! do is theirs.
#![forbid(unsafe_code)]

pub mod api;
pub mod auth;
pub mod camera;
pub mod cascade;
pub mod cli;
pub mod commands;
pub mod config;
mod console;
mod demo;
pub mod doctor;
pub mod door;
mod http;
pub mod logs;
mod machine;
pub mod metrics;
mod node;
mod operations;
mod protocols;
pub mod relays;

pub use node::Node;
