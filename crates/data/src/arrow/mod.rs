//! Arrow IPC files in ViLT's layout.
