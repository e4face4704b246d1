"""What people and scripts read about a state folder: status, plan, checks, preview. No printing."""
