//! Small files made on the spot.
