"""What people and scripts read: status, plan, doctor, preview, first as data, then as text. No printing."""
