"""Which attributes of a DICOM file can tell whose picture it is."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

PRIVATE = "private attributes"
"""Stands for the attributes of makers, which have no keyword and may hold anything."""

_PIXELS = 0x7FE0

# DICOM PS3.15 (2026c), Table E.1-1: what the Basic Application Level Confidentiality Profile
# removes or replaces, as far as radiographs carry it. Left out are unique identifiers, without
# which no file is DICOM, times of day, whose dates are here, and what tells of a device at work.
_PATIENT = """
    PatientName PatientID IssuerOfPatientID OtherPatientIDs OtherPatientIDsSequence
    OtherPatientNames PatientBirthName PatientMotherBirthName PatientBirthDate PatientBirthTime
    PatientSex PatientSexNeutered PatientAge PatientSize PatientWeight PatientAddress
    PatientTelephoneNumbers PatientTelecomInformation CountryOfResidence RegionOfResidence
    EthnicGroup EthnicGroupCodeSequence Occupation PatientReligiousPreference MilitaryRank
    BranchOfService PatientPrimaryLanguageCodeSequence PatientPrimaryLanguageModifierCodeSequence
    InsurancePlanIdentification PatientInsurancePlanCodeSequence MedicalRecordLocator
    MedicalAlerts Allergies AdditionalPatientHistory LastMenstrualDate ResponsiblePerson
    ResponsibleOrganization PatientComments ReferencedPatientSequence
    ReferencedPatientPhotoSequence ReferencedPatientAliasSequence IdentifyingComments
    ConfidentialityConstraintOnPatientDataDescription PersonIdentificationCodeSequence
    PersonAddress PersonTelephoneNumbers PersonTelecomInformation
"""
_STAY = """
    AdmissionID IssuerOfAdmissionID IssuerOfAdmissionIDSequence AdmittingDate DischargeDate
    ScheduledAdmissionDate ScheduledDischargeDate AdmittingDiagnosesDescription
    AdmittingDiagnosesCodeSequence DischargeDiagnosisDescription CurrentPatientLocation
    PatientInstitutionResidence ScheduledPatientInstitutionResidence PatientState SpecialNeeds
    PatientTransportArrangements ServiceEpisodeID ServiceEpisodeDescription
    IssuerOfServiceEpisodeID IssuerOfServiceEpisodeIDSequence ReasonForVisit
    ReasonForVisitCodeSequence VisitComments
"""
_STUDY = """
    AccessionNumber StudyID StudyIDIssuer StudyDate SeriesDate AcquisitionDate ContentDate
    AcquisitionDateTime DateOfSecondaryCapture StudyDescription SeriesDescription ProtocolName
    AcquisitionProtocolDescription AcquisitionComments StudyComments ImageComments FrameComments
    ReasonForStudy StudyArrivalDate StudyCompletionDate StudyReadDate StudyVerifiedDate
    ScheduledStudyStartDate ScheduledStudyStopDate ScheduledStudyLocation
    ScheduledStudyLocationAETitle ReferencedStudySequence RequestAttributesSequence
    RequestingService RequestedProcedureID RequestedProcedureDescription
    RequestedProcedureComments RequestedProcedureLocation RequestedSeriesDescription
    ReasonForTheRequestedProcedure ReasonForRequestedProcedureCodeSequence
    ReasonForTheImagingServiceRequest ImagingServiceRequestComments
    IssueDateOfImagingServiceRequest PlacerOrderNumberImagingServiceRequest
    FillerOrderNumberImagingServiceRequest OrderEntererLocation OrderCallbackPhoneNumber
    OrderCallbackTelecomInformation ScheduledProcedureStepID ScheduledProcedureStepDescription
    ScheduledProcedureStepLocation ScheduledProcedureStepStartDate ScheduledProcedureStepEndDate
    PerformedProcedureStepID PerformedProcedureStepDescription PerformedProcedureStepStartDate
    PerformedProcedureStepEndDate CommentsOnThePerformedProcedureStep PerformedLocation
    ClinicalTrialSponsorName ClinicalTrialProtocolID ClinicalTrialProtocolName
    IssuerOfClinicalTrialProtocolID OtherClinicalTrialProtocolIDsSequence ClinicalTrialSiteID
    ClinicalTrialSiteName IssuerOfClinicalTrialSiteID ClinicalTrialSubjectID
    IssuerOfClinicalTrialSubjectID ClinicalTrialSubjectReadingID
    IssuerOfClinicalTrialSubjectReadingID ClinicalTrialCoordinatingCenterName
"""
_STAFF = """
    ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers
    ReferringPhysicianIdentificationSequence ConsultingPhysicianName
    ConsultingPhysicianIdentificationSequence PhysiciansOfRecord
    PhysiciansOfRecordIdentificationSequence PerformingPhysicianName
    PerformingPhysicianIdentificationSequence NameOfPhysiciansReadingStudy
    PhysiciansReadingStudyIdentificationSequence RequestingPhysician OperatorsName
    OperatorIdentificationSequence OrderEnteredBy ScheduledPerformingPhysicianName
    ScheduledPerformingPhysicianIdentificationSequence ScheduledHumanPerformersSequence
    ActualHumanPerformersSequence HumanPerformerName HumanPerformerOrganization
    NamesOfIntendedRecipientsOfResults IntendedRecipientsOfResultsIdentificationSequence
    ContentCreatorName ContentCreatorIdentificationCodeSequence
"""
_PLACE = """
    InstitutionName InstitutionAddress InstitutionCodeSequence InstitutionalDepartmentName
    InstitutionalDepartmentTypeCodeSequence StationName StationAETitle RetrieveAETitle NetworkID
    ScheduledStationName ScheduledStationAETitle ScheduledStationNameCodeSequence
    ScheduledStationGeographicLocationCodeSequence PerformedStationName PerformedStationAETitle
    PerformedStationNameCodeSequence PerformedStationGeographicLocationCodeSequence
    DeviceSerialNumber UniqueDeviceIdentifier PlateID GeneratorID CassetteID GantryID DetectorID
    XRaySourceID XRayDetectorID XRayDetectorLabel SecondaryCaptureDeviceID
"""
_RESULTS = """
    ResultsID ResultsIDIssuer ResultsComments ResultsDistributionListSequence DistributionName
    DistributionAddress InterpretationID InterpretationIDIssuer InterpretationText
    InterpretationRecorder InterpretationRecordedDate InterpretationTranscriber
    InterpretationTranscriptionDate InterpretationAuthor InterpretationApproverSequence
    InterpretationApprovalDate PhysicianApprovingInterpretation
    InterpretationDiagnosisDescription Impressions IconImageSequence OriginalAttributesSequence
    CertificateOfSigner DigitalSignaturesSequence
"""
IDENTIFYING: frozenset[str] = frozenset(
    " ".join((_PATIENT, _STAY, _STUDY, _STAFF, _PLACE, _RESULTS)).split()
)
"""Keywords of attributes that can tell who, where or when; see [PS3.15, Table E.1-1]."""


def identifying_keywords(dataset: Dataset) -> tuple[str, ...]:
    """Which attributes of ``IDENTIFYING`` a dataset fills, at any depth, sorted; never a value.

    `PRIVATE` is among them if there is any such attribute.
    """
    return tuple(sorted(set(_filled(dataset))))


def _filled(dataset: Dataset) -> Iterator[str]:
    for tag in dataset.keys():  # noqa: SIM118 (iterating the dataset itself would convert each)
        keyword = PRIVATE if tag.is_private else keyword_for_tag(tag)
        if tag.group == _PIXELS:
            continue
        try:
            element = dataset[tag]
            filled = not element.is_empty and str(element.value).strip() != ""
            items = list(element.value) if element.VR == "SQ" else []
        except Exception:  # A value that cannot be read can still be read by a person.
            filled, items = True, []
        if filled and (keyword in IDENTIFYING or keyword == PRIVATE):
            yield keyword
        for item in items:
            yield from _filled(item)
