"""Records of the files that users bring, in the forms of other trainers, become one plain item each."""
