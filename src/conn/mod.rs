//! One connection: how bytes come and go, what a body is, and what is done with the requests on it.

pub(crate) mod transport;

pub(crate) mod egress;

pub(crate) mod patience;

pub(crate) mod inbox;

pub(crate) mod turn;

pub(crate) mod body;

pub(crate) mod whole;

pub(crate) mod answer;

pub(crate) mod exchange;

pub(crate) mod parked;

pub(crate) mod ending;
