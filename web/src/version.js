/** The crate's version; a test compares them. */
export const version = '0.1.0';
