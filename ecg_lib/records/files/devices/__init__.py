"""Readers of what ECG devices export: DICOM, ISHNE, SCP-ECG, HL7 aECG, GE MUSE and Philips XML, Kardia ATC."""
