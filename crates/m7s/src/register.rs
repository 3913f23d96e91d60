//! How old lowers dial: `register%3Fcid=ID`, with the question mark of the query escaped, so that it is part of the path.

/// Path and query of such a target.
pub fn split(target: &str) -> Option<(&str, &str)> {
    target.split_once("%3F").or_else(|| target.split_once("%3f"))
}
