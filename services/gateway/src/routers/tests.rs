mod calls;
mod checks;
mod names;
mod network;
