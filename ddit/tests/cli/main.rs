//! The program as its users meet it: arguments, exit codes, lines of JSON, files, mistakes.
//!
//! Everything runs on a tiny model with fresh weights: what it draws and writes is noise, but it is
//! drawn, written and reported as any model's.

mod devices;
mod drawing;
mod measuring;
mod mistakes;
mod parity;
mod reconstructing;
mod world;
mod writing;
