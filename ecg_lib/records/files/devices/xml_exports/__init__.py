"""Read the XML exports of ECG devices: HL7 aECG, GE MUSE and Philips."""
