"""Read exports of ECG devices: DICOM, ISHNE, SCP-ECG, HL7 aECG, GE MUSE, Philips XML, Kardia."""
