"""The campaign: the promises of the state folder, tried by thousands of cases."""
